# FCOS. The table says ResNeXt and 31.8 M parameters: a ResNeXt-50 32x4d (31.6 M). MMDetection's own config with a
# ResNeXt has the 101 64x4d, of about 90 M.
_base_ = ['../../_base_/models/fcos_r50_fpn.py', './_base_/cnn_75e_nwpu-vhr10.py']

model = dict(
    backbone=dict(
        type='ResNeXt', groups=32, base_width=4, init_cfg=dict(checkpoint='open-mmlab://resnext50_32x4d')),
    bbox_head=dict(num_classes={{_base_.num_classes}}))
