# YOLOv8-l on COCO: YOLOv8-m's recipe, the augmentation as strong as for its scale.
_base_ = './yolov8_m_8xb16-500e_coco.py'

deepen_factor = 1.0
widen_factor = 1.0
channels = [256, 512, 512]

model = dict(
    backbone=dict(last_stage_out_channels=512, deepen_factor=deepen_factor, widen_factor=widen_factor),
    neck=dict(
        in_channels=channels, out_channels=channels, deepen_factor=deepen_factor, widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(in_channels=channels, widen_factor=widen_factor)))

mosaic, paste, affine = mixed = _base_.paste_mosaic
paste['prob'] = 0.3
mixup = dict(_base_.paste_mixup, prob=0.15, pre_transform=[*_base_.paste_load, *mixed])
train_dataloader = dict(dataset=dict(pipeline=[*_base_.paste_load, *mixed, mixup, *_base_.paste_last]))
