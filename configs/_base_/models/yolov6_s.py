# YOLOv6-s 3.0 on MMYOLO (optional, GPL-3.0).
_base_ = './mmyolo_detector.py'

deepen_factor = 0.33
widen_factor = 0.5

model = dict(
    backbone=dict(
        type='mmyolo.YOLOv6EfficientRep',
        out_indices=[1, 2, 3, 4],
        use_cspsppf=True,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        norm_cfg=_base_.norm_cfg,
        act_cfg=dict(type='ReLU', inplace=True)),
    neck=dict(
        type='mmyolo.YOLOv6RepBiPAFPN',
        in_channels=[128, 256, 512, 1024],
        out_channels=[128, 256, 512],
        num_csp_blocks=12,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        norm_cfg=_base_.norm_cfg,
        act_cfg=dict(type='ReLU', inplace=True)),
    bbox_head=dict(
        type='mmyolo.YOLOv6Head',
        head_module=dict(
            type='mmyolo.YOLOv6HeadModule',
            num_classes=80,
            in_channels=[128, 256, 512],
            widen_factor=widen_factor,
            featmap_strides=[8, 16, 32],
            norm_cfg=_base_.norm_cfg,
            act_cfg=dict(type='SiLU', inplace=True)),
        loss_bbox=dict(
            type='mmyolo.IoULoss',
            iou_mode='giou',
            bbox_format='xyxy',
            reduction='mean',
            loss_weight=2.5,
            return_iou=False)),
    train_cfg=dict(
        initial_epoch=4,
        initial_assigner=dict(
            type='mmyolo.BatchATSSAssigner',
            num_classes=80,
            topk=9,
            iou_calculator=dict(type='mmdet.BboxOverlaps2D')),
        assigner=dict(type='mmyolo.BatchTaskAlignedAssigner', num_classes=80, topk=13, alpha=1, beta=6)))
