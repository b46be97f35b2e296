# The baseline on PASCAL VOC 07+12; the data layer's threefold repetition is left out.
_base_ = [
    '../_base_/models/rtdetr_hgnetv2-b2.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/schedule_rtdetr_72e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(batch_augments=_base_.rtdetr_batch_augments),
    bbox_head=dict(num_classes={{_base_.num_classes}}))

train_pipeline = _base_.rtdetr_train_pipeline
test_pipeline = _base_.rtdetr_test_pipeline
years = _base_.train_dataloader['dataset']['dataset']['datasets']
for year in years:
    year['pipeline'] = train_pipeline
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    batch_sampler=None,  # all images have one size
    dataset=dict(times=1, dataset=dict(datasets=years)))
del year, years
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 100
train_cfg = dict(max_epochs=max_epochs)
custom_hooks = [*_base_.custom_hooks, _base_.rtdetr_ema]
