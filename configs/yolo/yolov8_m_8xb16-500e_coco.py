# YOLOv8-m on COCO by its own recipe, 8 GPUs with 16 images: copy-paste by the objects' masks, and MixUp.
_base_ = [
    '../_base_/models/yolov8_n.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_yolo_paste_500e.py',
]

deepen_factor = 0.67
widen_factor = 0.75
channels = [256, 512, 768]

model = dict(
    backbone=dict(last_stage_out_channels=768, deepen_factor=deepen_factor, widen_factor=widen_factor),
    neck=dict(
        in_channels=channels, out_channels=channels, deepen_factor=deepen_factor, widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(in_channels=channels, widen_factor=widen_factor)))

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    batch_sampler=None,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False, min_size=32), pipeline={{_base_.paste_train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.yolo_test_pipeline}}))
test_dataloader = val_dataloader
