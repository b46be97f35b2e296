# SSD300-CFSAM (fig. 1): the module behind SSD's six maps. 45.18 M, 44.9 GMACs.
_base_ = './ssd300_voc0712.py'

model = dict(
    neck=[
        _base_.model.neck,
        dict(type='mmscale.CFSAM', in_channels=_base_.model.neck.out_channels),
    ])
