# CSF-Net on VisDrone-DET2019 by its recipe for Micro RGB UAV.
_base_ = [
    '../_base_/models/csf-net_n.py',
    '../_base_/datasets/visdrone_det.py',
    '../_base_/schedules/schedule_yolo_500e.py',
]

num_classes = {{_base_.num_classes}}
model = dict(
    bbox_head=dict(head_module=dict(num_classes=num_classes)), train_cfg=dict(assigner=dict(num_classes=num_classes)))

train_pipeline = [
    *_base_.yolo_load,
    *_base_.yolo_mosaic,
    dict(type='mmyolo.YOLOv5MixUp', prob=0.1, pre_transform=[*_base_.yolo_load, *_base_.yolo_mosaic]),
    *_base_.yolo_last,
]
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    batch_sampler=None,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline={{_base_.yolo_test_pipeline}}))
test_dataloader = val_dataloader

max_epochs = 80
last_epochs = 15
train_cfg = dict(max_epochs=max_epochs, val_interval=5, dynamic_intervals=[(max_epochs - last_epochs, 1)])
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.001, weight_decay=0.05))
default_hooks = dict(
    param_scheduler=dict(
        scheduler_type='cosine', max_epochs=max_epochs, warmup_epochs=3, warmup_mim_iter=1, warmup_bias_lr=0.0),
    checkpoint=dict(interval=5))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_epoch'] = max_epochs - last_epochs
