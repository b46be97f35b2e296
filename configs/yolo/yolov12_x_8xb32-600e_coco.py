# YOLOv12-x on COCO by YOLOv12-s's recipe, the augmentation as strong as for its scale.
_base_ = './yolov12_s_8xb32-600e_coco.py'

deepen_factor = 1.0
widen_factor = 1.5

model = dict(
    backbone=dict(
        last_stage_out_channels=512,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        c3k=True,
        residual=True,
        mlp_ratio=1.5),
    neck=dict(
        in_channels=[512, 512, 512],
        out_channels=[256, 512, 512],
        deepen_factor=deepen_factor,
        widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(in_channels=[256, 512, 512], widen_factor=widen_factor)))

mosaic, paste, affine = mixed = _base_.paste_mosaic
paste['prob'] = 0.6
mixup = dict(_base_.paste_mixup, prob=0.2, pre_transform=[*_base_.paste_load, *mixed])
train_dataloader = dict(dataset=dict(pipeline=[*_base_.paste_load, *mixed, mixup, *_base_.paste_last]))
