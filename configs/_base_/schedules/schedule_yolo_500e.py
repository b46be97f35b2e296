# YOLOv8's recipe in MMYOLO's form, for its n and s: mosaic, random affine, colours and flips, SGD with a warm-up of its
# own, an average of the weights, no mosaic in the last 10 epochs. A config takes the pipelines, and sets what differs:
#     train_dataloader = dict(batch_size=16, dataset=dict(pipeline={{_base_.yolo_train_pipeline}}))
# The transforms and the hook are MMYOLO's, which is optional and under the GPL. MMYOLO's recipe also blurs one image of
# a hundred by albumentations; that is left out here. Its optimizer groups leave out what is not called weight or bias;
# these do not. The runtime is in it, since it changes its hooks.
_base_ = '../default_runtime.py'

default_scope = 'mmyolo'  # MMYOLO's parts name their own parts without it

max_epochs = 500
img_scale = (640, 640)  # width, height
affine_scale = 0.5
save_interval = 10

yolo_load = [
    dict(type='mmscale.LoadImageFromFile', backend_args=None),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
]
yolo_last = [
    dict(type='mmyolo.YOLOv5HSVRandomAug'),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape'))
]
yolo_affine = dict(
    type='mmyolo.YOLOv5RandomAffine',
    max_rotate_degree=0.0,
    max_shear_degree=0.0,
    scaling_ratio_range=(1 - affine_scale, 1 + affine_scale),
    max_aspect_ratio=100,
    border_val=(114, 114, 114))
yolo_mosaic = [
    dict(type='mmyolo.Mosaic', img_scale=img_scale, pad_val=114.0, pre_transform=yolo_load),
    dict(**yolo_affine, border=(-img_scale[0] // 2, -img_scale[1] // 2)),
]
yolo_letterbox = [
    dict(type='mmyolo.YOLOv5KeepRatioResize', scale=img_scale),
    dict(type='mmyolo.LetterResize', scale=img_scale, allow_scale_up=True, pad_val=dict(img=114)),
]
yolo_train_pipeline = [*yolo_load, *yolo_mosaic, *yolo_last]
yolo_train_pipeline_stage2 = [*yolo_load, *yolo_letterbox, yolo_affine, *yolo_last]
yolo_test_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args=None),
    dict(type='mmyolo.YOLOv5KeepRatioResize', scale=img_scale),
    dict(type='mmyolo.LetterResize', scale=img_scale, allow_scale_up=False, pad_val=dict(img=114)),
    # after the resize: the ground truth stays in the image's own pixels
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'pad_param'))
]

train_cfg = dict(
    type='EpochBasedTrainLoop',
    max_epochs=max_epochs,
    val_interval=save_interval,
    dynamic_intervals=[(max_epochs - 10, 1)])
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = None
optim_wrapper = dict(
    type='OptimWrapper',
    clip_grad=dict(max_norm=10.0),
    optimizer=dict(
        type='SGD', lr=0.01, momentum=0.937, weight_decay=0.0005, nesterov=True, batch_size_per_gpu=16),
    constructor='mmscale.YOLOOptimWrapperConstructor')
default_hooks = dict(
    param_scheduler=dict(
        type='mmyolo.YOLOv5ParamSchedulerHook',
        scheduler_type='linear',
        lr_factor=0.01,
        max_epochs=max_epochs,
        warmup_epochs=3,
        warmup_mim_iter=1000),
    checkpoint=dict(interval=save_interval))
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='EMAHook',
        ema_type='mmyolo.ExpMomentumEMA',
        momentum=0.0001,
        update_buffers=True,
        strict_load=False,
        priority=49),
    dict(
        type='mmscale.PipelineSwitchHook',
        switch_epoch=max_epochs - 10,
        switch_pipeline=yolo_train_pipeline_stage2)
]
