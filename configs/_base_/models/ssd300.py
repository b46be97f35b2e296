# SSD300 with VGG-16, MMDetection's model, and its pipelines for any data set: 300x300 without keeping the aspect ratio,
# zoom-out, crops by IoU, photometric distortion.
_base_ = 'mmdet::_base_/models/ssd300.py'

ssd_train_pipeline = [
    dict(type='mmscale.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(
        type='mmdet.Expand',
        mean={{_base_.model.data_preprocessor.mean}},
        to_rgb={{_base_.model.data_preprocessor.bgr_to_rgb}},
        ratio_range=(1, 4)),
    dict(type='mmdet.MinIoURandomCrop', min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
    dict(type='mmdet.Resize', scale=(300, 300), keep_ratio=False),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(
        type='mmdet.PhotoMetricDistortion',
        brightness_delta=32,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=18),
    dict(type='mmdet.PackDetInputs')
]
ssd_test_pipeline = [
    dict(type='mmscale.LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=(300, 300), keep_ratio=False),
    # after Resize: the ground truth stays in the image's own pixels
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
