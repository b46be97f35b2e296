# YOLOv8-s, the scale whose operations are next to the table's 32 G.
_base_ = ['../../_base_/models/yolov8_n.py', './_base_/yolo_75e_nwpu-vhr10.py']

num_classes = {{_base_.num_classes}}
model = dict(
    backbone=dict(widen_factor=0.5),
    neck=dict(widen_factor=0.5),
    bbox_head=dict(head_module=dict(widen_factor=0.5, num_classes=num_classes)),
    train_cfg=dict(assigner=dict(num_classes=num_classes)))
