# RT-DETR with HGNetV2-B2 of D-FINE's weights and three decoder layers: HMPE's baseline.
_base_ = './rtdetr_r18.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmscale.HGNetV2',
        arch='B2',
        out_indices=(1, 2, 3),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/Peterande/storage/releases/download/dfinev1.0/PPHGNetV2_B2_stage1.pth')),
    neck=dict(in_channels=[384, 768, 1536], expansion=0.75))
