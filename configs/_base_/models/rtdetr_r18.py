# RT-DETR with a ResNet-18-vd, as the official code's rtdetr_r18vd: a slim encoder (expansion 0.5) and three decoder
# layers; every norm is trained. Images are divided by 255, in RGB.
model = dict(
    type='mmscale.RTDETR',
    num_queries=300,
    data_preprocessor=dict(
        type='mmdet.DetDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(
        type='mmscale.ResNetVd',
        depth=18,
        out_indices=(1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/lyuwenyu/storage/releases/download/v0.1/'
            'ResNet18_vd_pretrained_from_paddle.pth')),
    neck=dict(
        type='mmscale.HybridEncoder',
        in_channels=[128, 256, 512],
        out_channels=256,
        expansion=0.5,
        aifi=dict(num_heads=8, feedforward_channels=1024)),
    decoder=dict(
        num_layers=3, num_eval_layers=None, embed_dims=256, num_heads=8, feedforward_channels=1024, num_points=4),
    bbox_head=dict(
        type='mmscale.RTDETRHead',
        num_classes=80,
        embed_dims=256,
        loss_cls=dict(type='mmscale.IoUVarifocalLoss', alpha=0.75, gamma=2.0, loss_weight=1.0),
        loss_bbox=dict(type='mmdet.L1Loss', loss_weight=5.0),
        loss_iou=dict(type='mmdet.GIoULoss', loss_weight=2.0)),
    dn_cfg=dict(
        label_noise_scale=0.5, box_noise_scale=1.0, group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100)),
    train_cfg=dict(
        assigner=dict(
            type='mmdet.HungarianAssigner',
            match_costs=[
                dict(type='mmdet.FocalLossCost', weight=2.0),
                dict(type='mmdet.BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='mmdet.IoUCost', iou_mode='giou', weight=2.0)
            ])),
    test_cfg=dict(max_per_img=300))
