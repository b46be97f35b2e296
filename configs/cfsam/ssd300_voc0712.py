# The paper's baseline, SSD300 on VOC07+12: its recipe, and MMDetection's model and augmentation. 26.29 M, 31.37 GMACs.
_base_ = [
    '../_base_/models/ssd300.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/schedule_ssd_260e.py',
    '../_base_/default_runtime.py',
]

# the anchors of MMDetection's SSD300 on VOC: the smallest are 10 % of the image, COCO's 7 %
model = dict(
    bbox_head=dict(
        num_classes={{_base_.num_classes}}, anchor_generator=dict(basesize_ratio_range=(0.2, 0.9))))

train_pipeline = _base_.ssd_train_pipeline
test_pipeline = _base_.ssd_test_pipeline
years = _base_.train_dataloader['dataset']['dataset']['datasets']
for year in years:
    year['pipeline'] = train_pipeline
train_dataloader = dict(
    batch_size=48,
    num_workers=8,
    batch_sampler=None,  # all images have one size
    dataset=dict(times=1, dataset=dict(datasets=years)))
del year, years
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(classwise=True)  # table 1 has a column per class
test_evaluator = val_evaluator
