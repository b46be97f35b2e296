# BCCD at 256x192 from random weights for two CPU cores: RT-DETR's small form with HSD-DETR's parts.
_base_ = '../rtdetr/rtdetr_r18_12e_bccd.py'

model = dict(
    backbone=dict(_delete_=True, type='mmscale.HCSSNet', arch='tiny', stem='spd_mixer'),
    neck=dict(aifi=dict(_delete_=True, type='mmscale.DSAIFI', feedforward_channels=256)),
    bbox_head=dict(loss_iou=dict(_delete_=True, type='mmscale.RFMPDIoULoss', loss_weight=2.0)))
