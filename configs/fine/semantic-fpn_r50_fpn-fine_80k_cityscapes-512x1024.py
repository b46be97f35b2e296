_base_ = './semantic-fpn_r50_fpn_80k_cityscapes-512x1024.py'

model = dict(neck=dict(type='mmscale.FINEFPN', fine=dict(type='mmscale.FINE')))
