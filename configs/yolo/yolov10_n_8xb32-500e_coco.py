# YOLOv10-n on COCO by YOLOv10-s's recipe.
_base_ = './yolov10_s_8xb32-500e_coco.py'

deepen_factor = 0.33
widen_factor = 0.25
channels = [256, 512, 1024]

model = dict(
    backbone=dict(
        last_stage_out_channels=1024,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        cib_stages=(),
        large_kernel=True),
    neck=dict(
        in_channels=channels,
        out_channels=channels,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        cib=('bottom_up_32', ),
        large_kernel=True),
    bbox_head=dict(head_module=dict(in_channels=channels, widen_factor=widen_factor)))
