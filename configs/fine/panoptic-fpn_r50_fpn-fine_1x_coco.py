_base_ = './panoptic-fpn_r50_fpn_1x_coco.py'

model = dict(neck=dict(type='mmscale.FINEFPN', fine=dict(type='mmscale.FINE')))
