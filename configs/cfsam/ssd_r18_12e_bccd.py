# BCCD at 192x192 from random weights, 12 epochs, a few minutes on two CPU cores.
_base_ = [
    '../_base_/models/ssd_r18_scratch.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/schedule_scratch_5e.py',
    '../_base_/default_runtime.py',
]

model = dict(bbox_head=dict(num_classes={{_base_.num_classes}}))

train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
for pipeline in (train_pipeline, test_pipeline):
    for step in pipeline:
        if step['type'] == 'mmdet.Resize':
            step.update(scale=({{_base_.ssd_input_size}}, {{_base_.ssd_input_size}}), keep_ratio=False)
del pipeline, step
train_dataloader = dict(
    batch_size=8,
    drop_last=True,  # a batch of one has a single value per channel on the last map, too few for its batch norm
    batch_sampler=None,
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=25),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        convert_to_iter_based=True)
]

auto_scale_lr = dict(enable=False, base_batch_size=8)
