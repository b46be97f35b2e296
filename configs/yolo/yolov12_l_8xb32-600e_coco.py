# YOLOv12-l on COCO by YOLOv12-s's recipe, the augmentation as strong as for its scale.
_base_ = './yolov12_s_8xb32-600e_coco.py'

deepen_factor = 1.0
widen_factor = 1.0

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

# augmentation
affine_scale = 0.9
copy_paste = 0.5
mixup = 0.15

load = _base_.load
mosaic, paste, affine = _base_.mixed
paste['prob'] = copy_paste
affine['scaling_ratio_range'] = (1 - affine_scale, 1 + affine_scale)
mixed = [mosaic, paste, affine]
train_pipeline = [
    *load,
    *mixed,
    dict(type='mmyolo.YOLOv5MixUp', prob=mixup, pre_transform=[*load, *mixed]),
    dict(type='mmyolo.RemoveDataElement', keys=['gt_masks']),
    *_base_.yolo_last,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_pipeline'][-4]['scaling_ratio_range'] = (1 - affine_scale, 1 + affine_scale)
