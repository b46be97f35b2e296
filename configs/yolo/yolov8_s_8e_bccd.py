# BCCD at 256x192 from random weights, 8 epochs, for two CPU cores: YOLOv8-s by YOLOv8-n's recipe.
_base_ = './yolov8_n_8e_bccd.py'

widen_factor = 0.5
model = dict(
    backbone=dict(widen_factor=widen_factor),
    neck=dict(widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(widen_factor=widen_factor)))
