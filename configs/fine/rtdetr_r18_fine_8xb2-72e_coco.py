_base_ = '../rtdetr/rtdetr_r18_8xb2-72e_coco.py'

model = dict(neck=dict(type='mmscale.FINEHybridEncoder', fine=dict(type='mmscale.FINE')))
