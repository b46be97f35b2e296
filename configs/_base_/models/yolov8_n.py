# YOLOv8-n on MMYOLO (optional, GPL-3.0). The other scales change deepen_factor and widen_factor, m and l also the
# last stage's width.
_base_ = './mmyolo_detector.py'

deepen_factor = 0.33
widen_factor = 0.25

model = dict(
    backbone=dict(
        type='mmyolo.YOLOv8CSPDarknet',
        last_stage_out_channels=1024,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        norm_cfg=_base_.norm_cfg,
        act_cfg=_base_.act_cfg),
    neck=dict(
        type='mmyolo.YOLOv8PAFPN',
        in_channels=[256, 512, 1024],
        out_channels=[256, 512, 1024],
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        norm_cfg=_base_.norm_cfg,
        act_cfg=_base_.act_cfg),
    bbox_head=dict(
        type='mmyolo.YOLOv8Head',
        head_module=dict(
            type='mmyolo.YOLOv8HeadModule',
            num_classes=80,
            in_channels=[256, 512, 1024],
            widen_factor=widen_factor,
            reg_max=16,
            featmap_strides=[8, 16, 32],
            norm_cfg=_base_.norm_cfg,
            act_cfg=_base_.act_cfg),
        prior_generator=dict(type='mmdet.MlvlPointGenerator', offset=0.5, strides=[8, 16, 32]),
        bbox_coder=dict(type='mmyolo.DistancePointBBoxCoder'),
        loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='none', loss_weight=0.5),
        loss_bbox=dict(
            type='mmyolo.IoULoss',
            iou_mode='ciou',
            bbox_format='xyxy',
            reduction='sum',
            loss_weight=7.5,
            return_iou=False),
        # over the four sides, where MMDetection's loss takes the sum
        loss_dfl=dict(type='mmdet.DistributionFocalLoss', reduction='mean', loss_weight=1.5 / 4)),
    train_cfg=dict(
        assigner=dict(
            type='mmyolo.BatchTaskAlignedAssigner',
            num_classes=80,
            use_ciou=True,
            topk=10,
            alpha=0.5,
            beta=6.0,
            eps=1e-9)),
    test_cfg=dict(nms=dict(iou_threshold=0.7)))
