# YOLOv5-s (6.1) on MMYOLO (optional, GPL-3.0). Its loss weights follow the number of classes: a config that changes it
# sets loss_cls.loss_weight = 0.5 * num_classes / 80, too.
_base_ = './mmyolo_detector.py'

deepen_factor = 0.33
widen_factor = 0.5

model = dict(
    backbone=dict(
        type='mmyolo.YOLOv5CSPDarknet',
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        norm_cfg=_base_.norm_cfg,
        act_cfg=_base_.act_cfg),
    neck=dict(
        type='mmyolo.YOLOv5PAFPN',
        in_channels=[256, 512, 1024],
        out_channels=[256, 512, 1024],
        num_csp_blocks=3,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        norm_cfg=_base_.norm_cfg,
        act_cfg=_base_.act_cfg),
    bbox_head=dict(
        type='mmyolo.YOLOv5Head',
        head_module=dict(
            type='mmyolo.YOLOv5HeadModule',
            num_classes=80,
            in_channels=[256, 512, 1024],
            widen_factor=widen_factor,
            featmap_strides=[8, 16, 32],
            num_base_priors=3),
        prior_generator=dict(
            type='mmdet.YOLOAnchorGenerator',
            base_sizes=[
                [(10, 13), (16, 30), (33, 23)],
                [(30, 61), (62, 45), (59, 119)],
                [(116, 90), (156, 198), (373, 326)],
            ],
            strides=[8, 16, 32]),
        loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='mean', loss_weight=0.5),
        loss_bbox=dict(
            type='mmyolo.IoULoss',
            iou_mode='ciou',
            bbox_format='xywh',
            eps=1e-7,
            reduction='mean',
            loss_weight=0.05,
            return_iou=True),
        loss_obj=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='mean', loss_weight=1.0),
        prior_match_thr=4.0,
        obj_level_weights=[4.0, 1.0, 0.4]))
