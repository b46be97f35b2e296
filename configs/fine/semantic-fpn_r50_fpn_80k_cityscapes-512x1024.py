# MMSegmentation's sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py; 4 GPUs with 2 images each.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    '../_base_/datasets/cityscapes_semantic.py',
    'mmseg::_base_/schedules/schedule_80k.py',
    'mmseg::_base_/default_runtime.py',
]

custom_imports = dict(imports=['mmscale'], allow_failed_imports=False)
custom_hooks = [dict(type='mmscale.CheckDataHook')]
default_hooks = dict(
    # as in our default_runtime.py; the evaluator's first figure would be aAcc
    checkpoint=dict(max_keep_ckpts=3, save_best='mIoU', rule='greater'))

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes))
