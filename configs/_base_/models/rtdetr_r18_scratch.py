# An RT-DETR that trains from random weights (no download) on small images, two cores and some minutes: for tests and
# first experiments. A ResNet-18-vd of half the width, 128 channels in encoder and decoder, 100 queries.
_base_ = './rtdetr_r18.py'

model = dict(
    num_queries=100,
    backbone=dict(base_channels=32, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256], out_channels=128, aifi=dict(feedforward_channels=256)),
    decoder=dict(embed_dims=128, feedforward_channels=256),
    bbox_head=dict(embed_dims=128),
    test_cfg=dict(max_per_img=100))
