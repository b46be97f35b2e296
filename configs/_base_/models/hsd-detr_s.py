# HSD-DETR: RT-DETR R18 with HCSSNet-S, SPDMixer as its stem, DSAIFI and RF-MPDIoU. No ImageNet weights exist for it.
_base_ = './rtdetr_r18.py'

model = dict(
    backbone=dict(_delete_=True, type='mmscale.HCSSNet', arch='small', stem='spd_mixer'),
    neck=dict(
        in_channels=[96, 192, 384], aifi=dict(_delete_=True, type='mmscale.DSAIFI', feedforward_channels=1024)),
    bbox_head=dict(
        loss_iou=dict(_delete_=True, type='mmscale.RFMPDIoULoss', focal=(0.0, 0.95), alpha=1.0, loss_weight=2.0)))
