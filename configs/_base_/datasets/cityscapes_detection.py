# Cityscapes' instances, boxes, in MMDetection's layout (its converter writes the COCO files).
dataset_type = 'mmscale.CityscapesDataset'
data_root = 'data/cityscapes/'
num_classes = 8
backend_args = None

train_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args=backend_args),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', resize_type='mmdet.Resize', scale=[(2048, 800), (2048, 1024)], keep_ratio=True),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs')
]
test_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args=backend_args),
    dict(type='mmdet.Resize', scale=(2048, 1024), keep_ratio=True),
    # after Resize: the ground truth stays in the image's own pixels
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]

train_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=False,  # a resumed run equals an uninterrupted one
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'),
    dataset=dict(
        type='RepeatDataset',
        times=8,
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            ann_file='annotations/instancesonly_filtered_gtFine_train.json',
            data_prefix=dict(img='leftImg8bit/train/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=train_pipeline,
            backend_args=backend_args)))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instancesonly_filtered_gtFine_val.json',
        data_prefix=dict(img='leftImg8bit/val/'),
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=backend_args))
test_dataloader = val_dataloader

val_evaluator = dict(
    type='mmscale.DetectionMetric',
    ann_file=data_root + 'annotations/instancesonly_filtered_gtFine_val.json',
    protocols=('coco', 'voc12'),
    backend_args=backend_args)
test_evaluator = val_evaluator
