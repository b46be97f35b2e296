_base_ = './panoptic-fpn_r50_fpn_1x_coco.py'

# A module before each of the three fusions, which the paper's +1.6 M are (docs/fine.md); k = 4 for stride 8 into 4.
model = dict(neck=dict(type='mmscale.FINEFPN', fine=dict(type='mmscale.FINE'), fine_levels=[0, 1, 2]))
