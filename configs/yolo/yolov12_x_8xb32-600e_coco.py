# YOLOv12-x on COCO by YOLOv12-s's recipe, the augmentation as strong as for its scale.
_base_ = './yolov12_l_8xb32-600e_coco.py'

widen_factor = 1.5
model = dict(
    backbone=dict(widen_factor=widen_factor),
    neck=dict(widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(widen_factor=widen_factor)))

mosaic, paste, affine = mixed = _base_.paste_mosaic
paste['prob'] = 0.6
mixup = dict(_base_.paste_mixup, prob=0.2, pre_transform=[*_base_.paste_load, *mixed])
train_dataloader = dict(dataset=dict(pipeline=[*_base_.paste_load, *mixed, mixup, *_base_.paste_last]))
