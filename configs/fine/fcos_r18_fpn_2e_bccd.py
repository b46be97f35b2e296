# BCCD at 320x240 from random weights: AP50 above 0.3 after two epochs, minutes on two cores.
_base_ = [
    '../_base_/models/fcos_r18_fpn_scratch.py',
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
            step['scale'] = (320, 240)
del pipeline, step
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

max_epochs = 2
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        convert_to_iter_based=True)
]
