# YOLOv8-s on VisDrone at 800x800.
_base_ = [
    '../_base_/models/yolov8_n.py',
    '../_base_/datasets/visdrone_det.py',
    '../_base_/schedules/schedule_yolo_500e.py',
]

num_classes = {{_base_.num_classes}}
widen_factor = 0.5
model = dict(
    backbone=dict(widen_factor=widen_factor),
    neck=dict(widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(widen_factor=widen_factor, num_classes=num_classes)),
    train_cfg=dict(assigner=dict(num_classes=num_classes)))

# 800x800 for the transforms, and 100 epochs
size = (800, 800)
load, last = _base_.yolo_load, _base_.yolo_last
mosaic, affine = _base_.yolo_mosaic
mosaic['img_scale'] = size
affine['border'] = (-size[0] // 2, -size[1] // 2)
stage2 = _base_.yolo_train_pipeline_stage2
test_pipeline = _base_.yolo_test_pipeline
for step in (*stage2, *test_pipeline):
    if 'scale' in step:
        step['scale'] = size
del step

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    batch_sampler=None,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=[*load, mosaic, affine, *last]))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 100
train_cfg = dict(max_epochs=max_epochs, dynamic_intervals=[(max_epochs - 10, 1)])
default_hooks = dict(param_scheduler=dict(max_epochs=max_epochs))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_epoch'] = max_epochs - 10
custom_hooks[-1]['switch_pipeline'] = stage2
