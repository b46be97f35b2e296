# The paper's recipe on BCCD, in batches of 16: 205 images give 13 steps an epoch, 3,380 in all.
_base_ = [
    '../_base_/models/ssd300.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/schedule_ssd_260e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    bbox_head=dict(
        num_classes={{_base_.num_classes}}, anchor_generator=dict(basesize_ratio_range=(0.2, 0.9))))

train_pipeline = _base_.ssd_train_pipeline
test_pipeline = _base_.ssd_test_pipeline
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    batch_sampler=None,  # all images have one size
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))

auto_scale_lr = dict(enable=False, base_batch_size=16)
