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

train_pipeline = _base_.train_pipeline
mixup_step = train_pipeline[5]
mixup_step['prob'] = 0.0
for paste, affine in (train_pipeline[3:5], mixup_step['pre_transform'][3:5]):
    paste['prob'] = 0.1
    affine['scaling_ratio_range'] = (0.5, 1.5)
del paste, affine
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_pipeline'][-4]['scaling_ratio_range'] = (0.5, 1.5)
