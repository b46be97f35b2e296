# YOLOv10-b on COCO: YOLOv10-m's recipe.
_base_ = './yolov10_m_8xb32-500e_coco.py'

deepen_factor = 0.67
widen_factor = 1.0
channels = [256, 512, 512]

model = dict(
    backbone=dict(
        last_stage_out_channels=512,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        cib_stages=(4, ),
        large_kernel=False),
    neck=dict(
        in_channels=channels,
        out_channels=channels,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        cib=('top_down_16', 'bottom_up_16', 'bottom_up_32'),
        large_kernel=False),
    bbox_head=dict(head_module=dict(in_channels=channels, widen_factor=widen_factor)))
