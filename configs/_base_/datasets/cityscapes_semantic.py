# Cityscapes, semantic: 19 classes, for models of MMSegmentation. Layout and pipelines are MMSegmentation's.
# docs/data.md says where the files come from and how *_labelTrainIds.png are made.
dataset_type = 'mmseg.CityscapesDataset'
data_root = 'data/cityscapes/'
num_classes = 19
crop_size = (512, 1024)
backend_args = None

train_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args=backend_args),
    dict(type='mmseg.LoadAnnotations', backend_args=backend_args),
    dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='mmseg.RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg.PhotoMetricDistortion'),
    dict(type='mmseg.PackSegInputs')
]
test_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args=backend_args),
    dict(type='Resize', scale=(2048, 1024), keep_ratio=True),
    # after Resize: the ground truth stays in the image's own pixels
    dict(type='mmseg.LoadAnnotations', backend_args=backend_args),
    dict(type='mmseg.PackSegInputs')
]
tta_pipeline = [  # --tta: six sizes, each with its mirror image
    dict(type='mmscale.LoadImageFromFile', backend_args=backend_args),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=ratio, keep_ratio=True) for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
            [dict(type='RandomFlip', prob=0., direction='horizontal'),
             dict(type='RandomFlip', prob=1., direction='horizontal')],
            [dict(type='mmseg.LoadAnnotations', backend_args=backend_args)],
            [dict(type='mmseg.PackSegInputs')]])
]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=False,  # a resumed run equals an uninterrupted one
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
        backend_args=backend_args))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=backend_args))
test_dataloader = val_dataloader

val_evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
