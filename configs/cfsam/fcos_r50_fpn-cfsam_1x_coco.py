# CFSAM behind an FPN. An 800x1333 image has 22,000 tokens, eleven times SSD300's: 16 parts leave each as long as
# SSD300's.
_base_ = '../fine/fcos_r50_fpn_1x_coco.py'

model = dict(
    neck=[
        _base_.model.neck,
        dict(type='mmscale.CFSAM', in_channels=[256] * 5, num_parts=16),
    ])
