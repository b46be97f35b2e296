# YOLOv6-l 3.0, as the table's 59 M and 150 G say.
_base_ = ['../../_base_/models/yolov6_s.py', './_base_/yolo_75e_nwpu-vhr10.py']

num_classes = {{_base_.num_classes}}
block_cfg = dict(type='ConvWrapper', norm_cfg=dict(type='BN', momentum=0.03, eps=0.001))
act_cfg = dict(type='SiLU', inplace=True)
model = dict(
    backbone=dict(
        type='mmyolo.YOLOv6CSPBep',
        deepen_factor=1.0,
        widen_factor=1.0,
        hidden_ratio=0.5,
        block_cfg=block_cfg,
        act_cfg=act_cfg),
    neck=dict(
        type='mmyolo.YOLOv6CSPRepBiPAFPN',
        deepen_factor=1.0,
        widen_factor=1.0,
        hidden_ratio=0.5,
        block_cfg=block_cfg,
        block_act_cfg=act_cfg),
    bbox_head=dict(head_module=dict(reg_max=16, widen_factor=1.0, num_classes=num_classes)),
    train_cfg=dict(initial_assigner=dict(num_classes=num_classes), assigner=dict(num_classes=num_classes)))
