# What the convolutional detectors of table 1 share: 75 epochs of NWPU VHR-10. The paper says that their hyperparameters
# are the same, and none of them. Ours: 640x640 without keeping the aspect ratio, as in this project's RT-DETR, and
# MMDetection's 1x recipe with its steps at the same parts of the run: flips alone, SGD, 16 images a step.
_base_ = ['../../../_base_/datasets/nwpu_vhr10.py', '../../../_base_/default_runtime.py']

train_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs')
]
test_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False),
    # after Resize: the ground truth stays in the image's own pixels
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    batch_sampler=None,  # all images have one size
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 75
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=300),  # few steps in an epoch
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[50, 69], gamma=0.1)
]

# The rate of MMDetection's one-stage detectors; a config whose detector has another says so.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001))

auto_scale_lr = dict(enable=False, base_batch_size=16)
