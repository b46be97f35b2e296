# YOLOv8-s on COCO by YOLOv8-n's recipe.
_base_ = './yolov8_n_8xb16-500e_coco.py'

deepen_factor = 0.33
widen_factor = 0.5

model = dict(
    backbone=dict(deepen_factor=deepen_factor, widen_factor=widen_factor),
    neck=dict(deepen_factor=deepen_factor, widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(widen_factor=widen_factor)))
