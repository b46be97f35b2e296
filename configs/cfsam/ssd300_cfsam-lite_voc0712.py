# A light CFSAM, the paper's future work (section 5): depthwise 3x3 convolutions in LFE, tokens of 128 channels
# instead of 256, four parts instead of two, two layers instead of three. The rest is SSD300's.
_base_ = './ssd300_cfsam_voc0712.py'

model = dict(
    neck=[
        _base_.model.neck[0],
        dict(
            type='mmscale.CFSAM',
            in_channels=_base_.model.neck[0].out_channels,
            channels=128,
            num_parts=4,
            num_layers=2,
            num_heads=4,
            feedforward_channels=192,
            depthwise=True),
    ])
