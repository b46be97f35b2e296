# YOLOv3 with the table's ResNet-50 in Darknet-53's place: the last three stages have the same strides. The rest is
# MMDetection's, augmentation and rate included.
from mmengine import Config

_base_ = './_base_/cnn_75e_nwpu-vhr10.py'

# MMDetection has the model only within a whole config, which as a base cannot stand beside a data layer.
model = Config.fromstring("_base_ = 'mmdet::yolo/yolov3_d53_8xb8-ms-608-273e_coco.py'", '.py').model
del Config
model.data_preprocessor.update(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])  # the ResNet's
model.backbone = dict(
    type='ResNet',
    depth=50,
    out_indices=(1, 2, 3),
    frozen_stages=1,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=True,
    style='pytorch',
    init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'))
model.neck.in_channels = [2048, 1024, 512]
model.bbox_head.num_classes = _base_.num_classes

train_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Expand', mean=model.data_preprocessor.mean, to_rgb=True, ratio_range=(1, 2)),
    dict(type='mmdet.MinIoURandomCrop', min_ious=(0.4, 0.5, 0.6, 0.7, 0.8, 0.9), min_crop_size=0.3),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PhotoMetricDistortion'),
    dict(type='mmdet.PackDetInputs')
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(
    optimizer=dict(lr=0.001, weight_decay=0.0005), clip_grad=dict(max_norm=35, norm_type=2))
