# YOLOv10-x on COCO: YOLOv10-m's recipe, the augmentation as strong as for its scale.
_base_ = './yolov10_m_8xb32-500e_coco.py'

deepen_factor = 1.0
widen_factor = 1.25
channels = [256, 512, 512]

model = dict(
    backbone=dict(
        last_stage_out_channels=512,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        cib_stages=(3, 4),
        large_kernel=False),
    neck=dict(
        in_channels=channels,
        out_channels=channels,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        cib=('top_down_16', 'bottom_up_16', 'bottom_up_32'),
        large_kernel=False),
    bbox_head=dict(head_module=dict(in_channels=channels, widen_factor=widen_factor)))

mosaic, paste, affine = mixed = _base_.paste_mosaic
paste['prob'] = 0.3
mixup = dict(_base_.paste_mixup, prob=0.15, pre_transform=[*_base_.paste_load, *mixed])
train_dataloader = dict(dataset=dict(pipeline=[*_base_.paste_load, *mixed, mixup, *_base_.paste_last]))
