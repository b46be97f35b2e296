# BCCD at 256x192 from random weights, 8 epochs, for two CPU cores.
_base_ = ['../_base_/models/yolov8_n.py', '../_base_/small/bccd_256x192.py']

num_classes = {{_base_.num_classes}}
model = dict(
    bbox_head=dict(head_module=dict(num_classes=num_classes)), train_cfg=dict(assigner=dict(num_classes=num_classes)))

max_epochs = 8
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_epochs, T_max=max_epochs)
