# Generated small objects at 192x192 from random weights, 8 epochs, for two CPU cores: CSF-Net by YOLOv8-n's recipe.
_base_ = '../yolo/yolov8_n_8e_small-objects.py'

model = dict(
    backbone=dict(_delete_=True, type='mmscale.CSFBackbone', deepen_factor=0.33, widen_factor=0.25),
    neck=dict(type='mmscale.CSFPAFPN'))
