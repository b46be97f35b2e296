# What the transformers of table 1 share: 125 epochs of NWPU VHR-10 and, as the paper says, the hyperparameters of its
# own detector. Here they are RT-DETR's: tested at 640x640, trained in batches of 480 to 800 pixels, AdamW, EMA.
_base_ = [
    '../../../_base_/datasets/nwpu_vhr10.py',
    '../../../_base_/schedules/schedule_rtdetr_72e.py',
    '../../../_base_/default_runtime.py',
]

train_pipeline = _base_.rtdetr_train_pipeline
test_pipeline = _base_.rtdetr_test_pipeline
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    batch_sampler=None,  # all images have one size
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 125
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=300)]  # few steps in an epoch
custom_hooks = [*_base_.custom_hooks, _base_.rtdetr_ema]
