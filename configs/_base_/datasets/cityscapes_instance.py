# Cityscapes' instances, boxes and masks.
_base_ = './cityscapes_detection.py'

train_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args={{_base_.backend_args}}),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', resize_type='mmdet.Resize', scale=[(2048, 800), (2048, 1024)], keep_ratio=True),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs')
]
test_pipeline = [
    dict(type='mmscale.LoadImageFromFile', backend_args={{_base_.backend_args}}),
    dict(type='mmdet.Resize', scale=(2048, 1024), keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]

train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Cityscapes' own AP of masks (mmdet.CityScapesMetric) needs the package cityscapesscripts and is not evaluated here.
# Boxes as everywhere (coco/AP ...; the first figure decides which checkpoint is best), masks by MMDetection's metric
# (coco/segm_mAP, coco/segm_mAP_s ...).
val_evaluator = [
    dict(
        type='mmscale.DetectionMetric',
        ann_file=_base_.data_root + 'annotations/instancesonly_filtered_gtFine_val.json',
        protocols=('coco', 'voc12'),
        backend_args={{_base_.backend_args}}),
    dict(
        type='mmscale.CocoMetric',
        ann_file=_base_.data_root + 'annotations/instancesonly_filtered_gtFine_val.json',
        metric='segm',
        backend_args={{_base_.backend_args}})
]
test_evaluator = val_evaluator
