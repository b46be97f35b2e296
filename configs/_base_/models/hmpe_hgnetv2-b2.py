# HMPE: RT-DETR with HGNetV2-B2, Linear-Snake convolutions on the encoder's levels, MOHFE in AIFI's place, and the
# heatmaps' hottest positions as queries.
_base_ = './rtdetr_hgnetv2-b2.py'

model = dict(
    type='mmscale.HMPE',
    neck=dict(
        type='mmscale.HMPEEncoder',
        conv=dict(type='mmscale.LSConv', kernel_size=9),
        conv_width=32,
        aifi=None,
        mohfe=dict(num_heads=8, feedforward_channels=1024, max_tokens=300)),
    heatmap_head=dict(heatmap='predicted', channels=64, tau=0.3),
    hidq=True,
    bbox_head=dict(type='mmscale.HMPEHead'))
