# The baseline of the parts one by one: RT-DETR R18 on VisDrone2019-DET.
_base_ = [
    '../_base_/models/rtdetr_r18.py',
    '../_base_/datasets/visdrone_det.py',
    '../_base_/schedules/schedule_rtdetr_72e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(batch_augments=_base_.rtdetr_batch_augments),
    bbox_head=dict(num_classes={{_base_.num_classes}}),
    test_cfg=dict(max_per_img=500))

train_pipeline = _base_.rtdetr_train_pipeline
test_pipeline = _base_.rtdetr_test_pipeline
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    batch_sampler=None,  # all images have one size
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

custom_hooks = [*_base_.custom_hooks, _base_.rtdetr_ema]
