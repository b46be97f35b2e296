# Generated small objects at 192x192, else as bccd_256x192.py:
# tools/data/generate.py --root data/small_objects --size 192 --images-train 200 --images-val 60 --objects 1 6
_base_ = ['../datasets/small_objects.py', '../schedules/schedule_scratch_5e.py', '../default_runtime.py']

train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
for pipeline in (train_pipeline, test_pipeline):
    for step in pipeline:
        if step['type'] == 'mmdet.Resize':
            step['scale'] = (192, 192)
del pipeline, step
train_dataloader = dict(batch_size=4, batch_sampler=None, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# a config of another length sets begin and end anew: `param_scheduler[1].update(end=8, T_max=8)`
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
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
optim_wrapper = dict(
    constructor='mmscale.AdditiveOptimWrapperConstructor', paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
