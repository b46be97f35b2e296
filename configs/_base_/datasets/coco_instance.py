# COCO 2017, boxes and masks.
_base_ = './coco_detection.py'

train_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args={{_base_.backend_args}}),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs')
]
test_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args={{_base_.backend_args}}),
    dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Boxes as everywhere (coco/AP ...; the first figure decides which checkpoint is best), masks by MMDetection's metric
# (coco/segm_mAP, coco/segm_mAP_s ...).
val_evaluator = [
    dict(
        type='mmscale.DetectionMetric',
        ann_file=_base_.data_root + 'annotations/instances_val2017.json',
        protocols=('coco', 'voc12'),
        backend_args={{_base_.backend_args}}),
    dict(
        type='mmscale.CocoMetric',
        ann_file=_base_.data_root + 'annotations/instances_val2017.json',
        metric='segm',
        backend_args={{_base_.backend_args}})
]
test_evaluator = val_evaluator
