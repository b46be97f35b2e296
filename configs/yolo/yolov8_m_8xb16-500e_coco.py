# YOLOv8-m on COCO: YOLOv8-n's recipe with its scale's augmentation, but for copy-paste, which needs masks.
_base_ = './yolov8_n_8xb16-500e_coco.py'

deepen_factor = 0.67
widen_factor = 0.75
channels = [256, 512, 768]

model = dict(
    backbone=dict(last_stage_out_channels=768, deepen_factor=deepen_factor, widen_factor=widen_factor),
    neck=dict(
        in_channels=channels, out_channels=channels, deepen_factor=deepen_factor, widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(in_channels=channels, widen_factor=widen_factor)))

# augmentation: scaling and MixUp
mosaic = _base_.yolo_mosaic
mosaic[-1]['scaling_ratio_range'] = (0.1, 1.9)
train_pipeline = [
    *_base_.yolo_load,
    *mosaic,
    dict(type='mmyolo.YOLOv5MixUp', prob=0.1, pre_transform=[*_base_.yolo_load, *mosaic]),
    *_base_.yolo_last,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_pipeline'][-4]['scaling_ratio_range'] = (0.1, 1.9)
