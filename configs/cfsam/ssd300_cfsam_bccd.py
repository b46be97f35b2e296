# SSD300-CFSAM on BCCD.
_base_ = './ssd300_bccd.py'

model = dict(
    neck=[
        _base_.model.neck,
        dict(type='mmscale.CFSAM', in_channels=_base_.model.neck.out_channels),
    ])
