_base_ = './fcos_r50_fpn_1x_bccd.py'

model = dict(neck=dict(type='mmscale.FINEFPN', fine=dict(type='mmscale.FINE')))
