_base_ = '../rtdetr/rtdetr_r18_12e_small-objects.py'

model = dict(
    backbone=dict(_delete_=True, type='mmscale.HCSSNet', arch='tiny', stem='spd_mixer'),
    neck=dict(aifi=dict(_delete_=True, type='mmscale.DSAIFI', feedforward_channels=256)),
    bbox_head=dict(loss_iou=dict(_delete_=True, type='mmscale.RFMPDIoULoss', loss_weight=2.0)))
