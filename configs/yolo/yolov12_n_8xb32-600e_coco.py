# YOLOv12-n on COCO by YOLOv12-s's recipe, the augmentation as strong as for its scale.
_base_ = './yolov12_s_8xb32-600e_coco.py'

deepen_factor = 0.5
widen_factor = 0.25

model = dict(
    backbone=dict(
        last_stage_out_channels=1024,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        c3k=False,
        residual=False,
        mlp_ratio=2.0),
    neck=dict(
        in_channels=[512, 512, 1024],
        out_channels=[256, 512, 1024],
        deepen_factor=deepen_factor,
        widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(in_channels=[256, 512, 1024], widen_factor=widen_factor)))

scaling = (0.5, 1.5)
mosaic, paste, affine = mixed = _base_.paste_mosaic
paste['prob'] = 0.1
affine['scaling_ratio_range'] = scaling
mixup = dict(_base_.paste_mixup, prob=0.0, pre_transform=[*_base_.paste_load, *mixed])
train_dataloader = dict(dataset=dict(pipeline=[*_base_.paste_load, *mixed, mixup, *_base_.paste_last]))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_pipeline'] = [
    *_base_.yolo_load, *_base_.yolo_letterbox, dict(_base_.yolo_affine, scaling_ratio_range=scaling), *_base_.yolo_last
]
