# RT-DETR's recipe but for the model and the data: augmentation, optimizer, schedule, batch size. A config puts the
# pipelines under its data layer (their names differ from the layer's own, which MMEngine would call a duplicate).
rtdetr_train_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args=None),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PhotoMetricDistortion'),  # each of its distortions with probability 0.5
    dict(type='mmdet.Expand', mean=[0, 0, 0], ratio_range=(1, 4), prob=0.5),
    dict(type='mmscale.RandomIoUCrop', prob=0.8),
    # keep_empty=False keeps images that are left without objects
    dict(type='mmdet.FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False),
    dict(type='mmdet.FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='mmdet.PackDetInputs')
]
rtdetr_test_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args=None),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False),
    # after Resize: the ground truth stays in the image's own pixels
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
rtdetr_batch_augments = [
    dict(
        type='mmscale.BatchResizeChoice',
        sizes=[480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800])
]

max_epochs = 72
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# Constant after the warm-up; the warm-up is that of the Paddle code, which the published weights come from.
param_scheduler = [dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=2000)]

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmscale.AdditiveOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.0001, betas=(0.9, 0.999), weight_decay=0.0001),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'backbone': dict(lr_mult=0.1)}),
    clip_grad=dict(max_norm=0.1, norm_type=2))

# Decay 0.9999, with the official ramp 0.9999 (1 - exp(-step / 2000)); parameters and buffers.
rtdetr_ema = dict(type='EMAHook', ema_type='mmdet.ExpMomentumEMA', momentum=0.0001, gamma=2000, update_buffers=True)

sync_bn = 'torch'  # on GPUs, in several processes

# 8 GPUs with 2 images (the official runs: 4 with 4).
auto_scale_lr = dict(enable=False, base_batch_size=16)
