# YOLOv10-s on COCO by its own recipe (the paper's table 14): YOLOv8's with 256 images a step.
_base_ = [
    '../_base_/models/yolov10_s.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_yolo_500e.py',
]

train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    batch_sampler=None,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False, min_size=32), pipeline={{_base_.yolo_train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.yolo_test_pipeline}}))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(batch_size_per_gpu=32))
