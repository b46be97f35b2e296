_base_ = '../rtdetr/rtdetr_r18_12e_bccd.py'

model = dict(neck=dict(type='mmscale.FINEHybridEncoder', fine=dict(type='mmscale.FINE')))
