_base_ = './hsd-detr_s_72e_visdrone.py'

model = dict(backbone=dict(arch='base'), neck=dict(in_channels=[128, 256, 512]))
