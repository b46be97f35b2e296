_base_ = './semantic-fpn_r50_fpn_80k_cityscapes-512x1024.py'

# A module before each of the three fusions, which the paper's +1.6 M are (docs/fine.md); k = 4 for stride 8 into 4.
model = dict(neck=dict(type='mmscale.FINEFPN', fine=dict(type='mmscale.FINE'), fine_levels=[0, 1, 2]))
