# YOLOv7 (its l), as the table's 36 M and 104 G say.
_base_ = ['../../_base_/models/yolov7_l.py', './_base_/yolo_75e_nwpu-vhr10.py']

model = dict(
    bbox_head=dict(
        head_module=dict(num_classes={{_base_.num_classes}}),
        loss_cls=dict(loss_weight=0.3 * 10 / 80)))  # of the data set's 10 classes
