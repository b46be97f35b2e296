# YOLOv5-l (6.1), as the table's 46 M and 109 G say.
_base_ = ['../../_base_/models/yolov5_s.py', './_base_/yolo_75e_nwpu-vhr10.py']

num_classes = {{_base_.num_classes}}
model = dict(
    backbone=dict(deepen_factor=1.0, widen_factor=1.0),
    neck=dict(deepen_factor=1.0, widen_factor=1.0),
    bbox_head=dict(
        head_module=dict(widen_factor=1.0, num_classes=num_classes),
        loss_cls=dict(loss_weight=0.5 * 10 / 80)))  # of the data set's 10 classes
