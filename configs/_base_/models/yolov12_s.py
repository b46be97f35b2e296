# YOLOv12-s in the form whose cost is 9.1 M and 19.4 G: grouped convolutions of stride 4 and 8, a 5x5 position kernel.
_base_ = './yolov8_n.py'

deepen_factor = 0.5
widen_factor = 0.5

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmscale.YOLOv12Backbone',
        last_stage_out_channels=1024,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor),
    neck=dict(
        _delete_=True,
        type='mmscale.YOLOv12PAFPN',
        in_channels=[512, 512, 1024],
        out_channels=[256, 512, 1024],
        deepen_factor=deepen_factor,
        widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(type='mmscale.LightYOLOHeadModule', widen_factor=widen_factor)))
