# MMDetection's panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py, which has no model layer of its own to inherit.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_panoptic.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

things, stuff = _base_.num_things_classes, _base_.num_stuff_classes
model = dict(
    type='PanopticFPN',
    data_preprocessor=dict(mask_pad_value=0, pad_seg=True, seg_pad_value=255),
    roi_head=dict(bbox_head=dict(num_classes=things), mask_head=dict(num_classes=things)),
    semantic_head=dict(
        type='PanopticFPNHead',
        num_things_classes=things,
        num_stuff_classes=stuff,
        in_channels=256,
        inner_channels=128,
        start_level=0,
        end_level=4,
        norm_cfg=dict(type='GN', num_groups=32, requires_grad=True),
        loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5)),
    panoptic_fusion_head=dict(type='HeuristicFusionHead', num_things_classes=things, num_stuff_classes=stuff),
    test_cfg=dict(
        # a pixel belongs to one segment: detections must be sure, and suppress each other across classes
        rcnn=dict(score_thr=0.6, nms=dict(class_agnostic=True)),
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=4096)))
