# A level of stride 4 for small objects: one more map of the backbone, all else follows. Its cost: tables.yml.
_base_ = './rtdetr_r18_8xb2-72e_coco.py'

model = dict(backbone=dict(out_indices=(0, 1, 2, 3)), neck=dict(in_channels=[64, 128, 256, 512]))
