# FCOS with a ResNet-18 that trains from random weights (no download) on small images, two cores and a few minutes: for
# tests, the demo and first experiments. Batch norm is trained, nothing is frozen.
_base_ = './fcos_r50_fpn.py'

model = dict(
    backbone=dict(
        depth=18, frozen_stages=-1, norm_cfg=dict(type='BN', requires_grad=True), norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2))
