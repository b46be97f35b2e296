_base_ = '../rtdetr/rtdetr_r18_12e_small-objects.py'

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
