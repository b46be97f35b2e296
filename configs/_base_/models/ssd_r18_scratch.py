# SSD on small images, from random weights (no download), for two cores and minutes: tests and first experiments. A
# ResNet-18 without its last stage stands for VGG-16, which learns nothing from random weights in so short a time; the
# rest is SSD's, six maps of 24 to 1 points a side at 192x192, 770 in all.
ssd_input_size = 192
ssd_widths = (128, 256, 128, 128, 128, 128)

model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1),
    backbone=dict(
        type='ResNet',
        depth=18,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch'),
    neck=dict(
        type='SSDNeck',
        in_channels=ssd_widths[:2],
        out_channels=ssd_widths,
        level_strides=(2, 2, 2, 1),
        level_paddings=(1, 1, 1, 0),
        last_kernel_size=2,
        l2_norm_scale=None,
        norm_cfg=dict(type='BN', requires_grad=True)),
    bbox_head=dict(
        type='SSDHead',
        in_channels=ssd_widths,
        num_classes=80,
        # sides in parts of the image: 0.1, 0.2, and evenly from there to 0.9
        anchor_generator=dict(
            type='SSDAnchorGenerator',
            scale_major=False,
            strides=[8, 16, 32, 64, 96, 192],
            ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            min_sizes=[19, 38, 72, 105, 139, 172],
            max_sizes=[38, 72, 105, 139, 172, 206]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2])),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.5,
            min_pos_iou=0.0,
            ignore_iof_thr=-1,
            gt_max_assign_all=False),
        sampler=dict(type='PseudoSampler'),
        smoothl1_beta=1.0,
        allowed_border=-1,
        pos_weight=-1,
        neg_pos_ratio=3,
        debug=False),
    test_cfg=dict(
        nms_pre=1000,
        nms=dict(type='nms', iou_threshold=0.45),
        min_bbox_size=0,
        score_thr=0.02,
        max_per_img=200))
