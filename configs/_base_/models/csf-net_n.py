# CSF-Net on YOLOv8-n: two backbones, and CReToNeXt before the P3 head.
_base_ = './yolov8_n.py'

model = dict(
    backbone=dict(_delete_=True, type='mmscale.CSFBackbone', deepen_factor=0.33, widen_factor=0.25),
    neck=dict(type='mmscale.CSFPAFPN'))
