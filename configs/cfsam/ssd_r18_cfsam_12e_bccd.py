# The same with CFSAM of half the width behind the neck.
_base_ = './ssd_r18_12e_bccd.py'

model = dict(
    neck=[
        _base_.model.neck,
        dict(type='mmscale.CFSAM', in_channels=_base_.ssd_widths, channels=128, feedforward_channels=192),
    ])
