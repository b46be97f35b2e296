# YOLOv8-s on VisDrone at 800x800.
_base_ = [
    '../_base_/models/yolov8_n.py',
    '../_base_/datasets/visdrone_det.py',
    '../_base_/schedules/schedule_yolo_100e_800x800.py',
]

num_classes = {{_base_.num_classes}}
widen_factor = 0.5
model = dict(
    backbone=dict(widen_factor=widen_factor),
    neck=dict(widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(widen_factor=widen_factor, num_classes=num_classes)),
    train_cfg=dict(assigner=dict(num_classes=num_classes)))

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    batch_sampler=None,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline={{_base_.yolo_train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.yolo_test_pipeline}}))
test_dataloader = val_dataloader
