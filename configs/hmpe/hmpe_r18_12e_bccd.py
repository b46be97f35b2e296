# BCCD at 256x192 from random weights for two CPU cores: RT-DETR's small form with HMPE's parts.
_base_ = '../rtdetr/rtdetr_r18_12e_bccd.py'

model = dict(
    type='mmscale.HMPE',
    neck=dict(
        type='mmscale.HMPEEncoder',
        conv=dict(type='mmscale.LSConv'),
        conv_width=32,
        aifi=None,
        mohfe=dict(feedforward_channels=256)),
    heatmap_head=dict(),
    hidq=True,
    bbox_head=dict(type='mmscale.HMPEHead'))
train_cfg = dict(val_interval=1)
