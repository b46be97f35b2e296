_base_ = './fcos_r18_fpn_5e_small-objects.py'

model = dict(neck=dict(type='mmscale.FINEFPN', fine=dict(type='mmscale.FINE')))
