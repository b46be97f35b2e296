# YOLOv7 (its l, 37 M) on MMYOLO (optional, GPL-3.0). Its loss weights follow the number of classes: a config that
# changes it sets loss_cls.loss_weight = 0.3 * num_classes / 80, too.
_base_ = './mmyolo_detector.py'

model = dict(
    backbone=dict(type='mmyolo.YOLOv7Backbone', arch='L', norm_cfg=_base_.norm_cfg, act_cfg=_base_.act_cfg),
    neck=dict(
        type='mmyolo.YOLOv7PAFPN',
        block_cfg=dict(type='ELANBlock', middle_ratio=0.5, block_ratio=0.25, num_blocks=4, num_convs_in_block=1),
        upsample_feats_cat_first=False,
        in_channels=[512, 1024, 1024],
        out_channels=[128, 256, 512],  # the real ones are twice as many
        norm_cfg=_base_.norm_cfg,
        act_cfg=_base_.act_cfg),
    bbox_head=dict(
        type='mmyolo.YOLOv7Head',
        head_module=dict(
            type='mmyolo.YOLOv7HeadModule',
            num_classes=80,
            in_channels=[256, 512, 1024],
            featmap_strides=[8, 16, 32],
            num_base_priors=3),
        prior_generator=dict(
            type='mmdet.YOLOAnchorGenerator',
            base_sizes=[
                [(12, 16), (19, 36), (40, 28)],
                [(36, 75), (76, 55), (72, 146)],
                [(142, 110), (192, 243), (459, 401)],
            ],
            strides=[8, 16, 32]),
        loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='mean', loss_weight=0.3),
        loss_bbox=dict(
            type='mmyolo.IoULoss',
            iou_mode='ciou',
            bbox_format='xywh',
            reduction='mean',
            loss_weight=0.05,
            return_iou=True),
        loss_obj=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='mean', loss_weight=0.7),
        prior_match_thr=4.0,
        obj_level_weights=[4.0, 1.0, 0.4],
        simota_candidate_topk=10,
        simota_iou_weight=3.0,
        simota_cls_weight=1.0))
