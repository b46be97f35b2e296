# YOLOv8-n on COCO by its own recipe, 8 GPUs with 16 images.
_base_ = [
    '../_base_/models/yolov8_n.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_yolo_500e.py',
]

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    batch_sampler=None,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False, min_size=32), pipeline={{_base_.yolo_train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.yolo_test_pipeline}}))
test_dataloader = val_dataloader
