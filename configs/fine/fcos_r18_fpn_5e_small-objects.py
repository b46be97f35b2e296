# What `make demo` trains: generated small objects at 192x192 (tools/data/generate.py --size 192 --objects 1 6), from
# random weights, two minutes on two cores.
_base_ = [
    '../_base_/models/fcos_r18_fpn_scratch.py',
    '../_base_/datasets/small_objects.py',
    '../_base_/schedules/schedule_scratch_5e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256]),
    bbox_head=dict(num_classes={{_base_.num_classes}}))

train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
for pipeline in (train_pipeline, test_pipeline):
    for step in pipeline:
        if step['type'] == 'mmdet.Resize':
            step['scale'] = (192, 192)
del pipeline, step
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
