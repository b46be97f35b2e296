# YOLOv10-l on COCO: YOLOv10-b's recipe, the augmentation as strong as for its scale.
_base_ = './yolov10_b_8xb32-500e_coco.py'

deepen_factor = 1.0
model = dict(backbone=dict(deepen_factor=deepen_factor), neck=dict(deepen_factor=deepen_factor))

mosaic, paste, affine = mixed = _base_.paste_mosaic
paste['prob'] = 0.3
mixup = dict(_base_.paste_mixup, prob=0.15, pre_transform=[*_base_.paste_load, *mixed])
train_dataloader = dict(dataset=dict(pipeline=[*_base_.paste_load, *mixed, mixup, *_base_.paste_last]))
