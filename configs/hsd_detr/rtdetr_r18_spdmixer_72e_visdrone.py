# SPDMixer as the stem of RT-DETR R18: the stages have ImageNet weights, the stem starts from random ones.
_base_ = './rtdetr_r18_72e_visdrone.py'

model = dict(backbone=dict(type='mmscale.SPDMixerResNetVd'))

optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone.stem': dict(lr_mult=1.0)}))
