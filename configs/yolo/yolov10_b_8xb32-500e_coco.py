# YOLOv10-b on COCO by YOLOv10-s's recipe; the augmentation of the scale is YOLOv8's, the released code says none.
_base_ = './yolov10_s_8xb32-500e_coco.py'

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

# augmentation: scaling and MixUp
mosaic = _base_.yolo_mosaic
mosaic[-1]['scaling_ratio_range'] = (0.1, 1.9)
train_pipeline = [
    *_base_.yolo_load,
    *mosaic,
    dict(type='mmyolo.YOLOv5MixUp', prob=0.1, pre_transform=[*_base_.yolo_load, *mosaic]),
    *_base_.yolo_last,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_pipeline'][-4]['scaling_ratio_range'] = (0.1, 1.9)
