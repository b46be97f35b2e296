# YOLOv10-x on COCO by YOLOv10-l's recipe.
_base_ = './yolov10_l_8xb32-500e_coco.py'

widen_factor = 1.25
model = dict(
    backbone=dict(widen_factor=widen_factor, cib_stages=(3, 4)),
    neck=dict(widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(widen_factor=widen_factor)))
