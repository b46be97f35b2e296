# What the YOLOs of table 1 share: 75 epochs of NWPU VHR-10. Ours: YOLOv8's recipe in MMYOLO's form, 16 images a step.
_base_ = ['../../../_base_/datasets/nwpu_vhr10.py', '../../../_base_/schedules/schedule_yolo_500e.py']

train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    batch_sampler=None,  # all images have one size
    dataset=dict(pipeline={{_base_.yolo_train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.yolo_test_pipeline}}))
test_dataloader = val_dataloader

max_epochs = 75
train_cfg = dict(max_epochs=max_epochs, val_interval=5, dynamic_intervals=[(max_epochs - 10, 1)])
default_hooks = dict(param_scheduler=dict(max_epochs=max_epochs, warmup_mim_iter=100), checkpoint=dict(interval=5))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_epoch'] = max_epochs - 10
