# YOLOv5u-s on MMYOLO (optional, GPL-3.0): YOLOv5's backbone and neck, YOLOv8's head and losses.
_base_ = './yolov8_n.py'

widen_factor = 0.5

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmyolo.YOLOv5CSPDarknet',
        deepen_factor=0.33,
        widen_factor=widen_factor,
        norm_cfg=_base_.norm_cfg,
        act_cfg=_base_.act_cfg),
    neck=dict(type='mmyolo.YOLOv5PAFPN', num_csp_blocks=3, widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(widen_factor=widen_factor)))
