# BCCD at 256x192, AdamW and one cosine over 12 epochs: what the small RT-DETR and the small YOLOs share, which two CPU
# cores train from random weights.
_base_ = ['../datasets/bccd.py', '../schedules/schedule_scratch_5e.py', '../default_runtime.py']

train_pipeline = [
    dict(type='mmscale.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='mmdet.Resize', scale=(256, 192), keep_ratio=False),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs')
]
test_pipeline = _base_.test_pipeline
for step in test_pipeline:
    if step['type'] == 'mmdet.Resize':
        step.update(scale=(256, 192), keep_ratio=False)
del step
train_dataloader = dict(batch_sampler=None, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# a config of another length sets begin and end anew: `param_scheduler[1].update(end=8, T_max=8)`
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        convert_to_iter_based=True)
]
optim_wrapper = dict(
    constructor='mmscale.AdditiveOptimWrapperConstructor', paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
