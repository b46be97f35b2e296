# The baseline: RT-DETR with HGNetV2-B2 on NWPU VHR-10, RT-DETR's recipe for 100 epochs.
_base_ = [
    '../_base_/models/rtdetr_hgnetv2-b2.py',
    '../_base_/datasets/nwpu_vhr10.py',
    '../_base_/schedules/schedule_rtdetr_72e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(batch_augments=_base_.rtdetr_batch_augments),
    bbox_head=dict(num_classes={{_base_.num_classes}}))

train_pipeline = _base_.rtdetr_train_pipeline
test_pipeline = _base_.rtdetr_test_pipeline
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    batch_sampler=None,  # all images have one size
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 100
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=300)]
custom_hooks = [*_base_.custom_hooks, _base_.rtdetr_ema]
