_base_ = './hsd-detr_s_72e_visdrone.py'

model = dict(backbone=dict(arch='tiny'), neck=dict(in_channels=[64, 128, 256]))
