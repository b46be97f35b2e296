# The paper's baseline on COCO: batch 16, 120 epochs. Its steps at the epochs 130 and 220 of 260 would never come;
# here they lie at the same parts of the run, 60 and 102. COCO 2017; docs/cfsam.md says how to train on the paper's
# 2014 split.
_base_ = [
    '../_base_/models/ssd300.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_ssd_260e.py',
    '../_base_/default_runtime.py',
]

train_pipeline = _base_.ssd_train_pipeline
test_pipeline = _base_.ssd_test_pipeline
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    batch_sampler=None,  # all images have one size
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 120
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[60, 102], gamma=0.1)
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
