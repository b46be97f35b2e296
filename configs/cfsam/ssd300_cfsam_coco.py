# SSD300-CFSAM on COCO.
_base_ = './ssd300_coco.py'

model = dict(
    neck=[
        _base_.model.neck,
        dict(type='mmscale.CFSAM', in_channels=_base_.model.neck.out_channels),
    ])
