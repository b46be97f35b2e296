# YOLOv12-s on COCO by its own recipe: 600 epochs, 256 images a step, copy-paste by the objects' masks, MixUp.
_base_ = [
    '../_base_/models/yolov12_s.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_yolo_paste_500e.py',
]

mosaic, paste, affine = mixed = _base_.paste_mosaic
paste['prob'] = 0.15
mixup = dict(_base_.paste_mixup, prob=0.05, pre_transform=[*_base_.paste_load, *mixed])
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    batch_sampler=None,
    dataset=dict(
        filter_cfg=dict(filter_empty_gt=False, min_size=32),
        pipeline=[*_base_.paste_load, *mixed, mixup, *_base_.paste_last]))
val_dataloader = dict(dataset=dict(pipeline={{_base_.yolo_test_pipeline}}))
test_dataloader = val_dataloader

max_epochs = 600
train_cfg = dict(max_epochs=max_epochs, dynamic_intervals=[(max_epochs - 10, 1)])
optim_wrapper = dict(optimizer=dict(batch_size_per_gpu=32))
default_hooks = dict(param_scheduler=dict(max_epochs=max_epochs, warmup_bias_lr=0.0))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_epoch'] = max_epochs - 10
