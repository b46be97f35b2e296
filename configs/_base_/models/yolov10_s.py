# YOLOv10-s: dual assignments, no NMS. The other scales are in configs/yolo.
_base_ = './yolov8_n.py'

deepen_factor = 0.33
widen_factor = 0.5

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmscale.YOLOv10Backbone',
        last_stage_out_channels=1024,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        cib_stages=(4, ),
        large_kernel=True),
    neck=dict(
        _delete_=True,
        type='mmscale.YOLOv10PAFPN',
        in_channels=[256, 512, 1024],
        out_channels=[256, 512, 1024],
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        cib=('bottom_up_32', ),
        large_kernel=True),
    bbox_head=dict(
        type='mmscale.YOLOv10Head',
        head_module=dict(type='mmscale.YOLOv10HeadModule', widen_factor=widen_factor)),
    test_cfg=dict(_delete_=True, max_per_img=300))
