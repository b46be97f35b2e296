# CenterNet with the table's ResNet-34. The table cites the one of keypoint triplets (Duan et al.), which MMDetection
# lacks; its CenterNet is "Objects as Points" (Zhou et al.).
from mmengine import Config

_base_ = './_base_/cnn_75e_nwpu-vhr10.py'

# MMDetection has the model only within a whole config, which as a base cannot stand beside a data layer.
model = Config.fromstring("_base_ = 'mmdet::centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py'", '.py').model
del Config
model.backbone.update(depth=34, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet34'))
model.bbox_head.num_classes = _base_.num_classes

# Zhou et al.'s crops at 640x640, and in the test the borders that the head subtracts, which are none here.
train_pipeline = [
    dict(type='mmscale.LoadImageFromFile', to_float32=True, backend_args=_base_.backend_args),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(
        type='mmdet.PhotoMetricDistortion',
        brightness_delta=32,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=18),
    dict(
        type='mmdet.RandomCenterCropPad',
        crop_size=(640, 640),
        ratios=(0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3),
        mean=[0, 0, 0],
        std=[1, 1, 1],
        to_rgb=True,
        test_pad_mode=None),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False),  # the crops are squares
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs')
]
test_pipeline = [
    dict(type='mmscale.LoadImageFromFile', to_float32=True, backend_args=_base_.backend_args),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False),
    dict(
        type='mmdet.RandomCenterCropPad',
        ratios=None,
        border=None,
        mean=[0, 0, 0],
        std=[1, 1, 1],
        to_rgb=True,
        test_mode=True,
        test_pad_mode=['size_divisor', 32]),
    # after Resize: the ground truth stays in the image's own pixels
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'border'))
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
