# YOLOv12-l on COCO by YOLOv12-s's recipe, the augmentation as strong as for its scale.
_base_ = './yolov12_m_8xb32-600e_coco.py'

deepen_factor = 1.0
model = dict(
    backbone=dict(deepen_factor=deepen_factor, residual=True, mlp_ratio=1.5), neck=dict(deepen_factor=deepen_factor))

mosaic, paste, affine = mixed = _base_.paste_mosaic
paste['prob'] = 0.5
mixup = dict(_base_.paste_mixup, prob=0.15, pre_transform=[*_base_.paste_load, *mixed])
train_dataloader = dict(dataset=dict(pipeline=[*_base_.paste_load, *mixed, mixup, *_base_.paste_last]))
