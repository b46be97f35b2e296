_base_ = './fcos_r18_fpn_2e_bccd.py'

model = dict(neck=dict(type='mmscale.FINEFPN', fine=dict(type='mmscale.FINE')))
