# The backbone's stem and all its norms are frozen.
_base_ = './rtdetr_r18_8xb2-72e_coco.py'

model = dict(
    backbone=dict(
        depth=50,
        frozen_stages=0,
        norm_cfg=dict(requires_grad=False),
        norm_eval=True,
        init_cfg=dict(
            checkpoint='https://github.com/lyuwenyu/storage/releases/download/v0.1/'
            'ResNet50_vd_ssld_v2_pretrained_from_paddle.pth')),
    neck=dict(in_channels=[512, 1024, 2048], expansion=1.0),
    decoder=dict(num_layers=6))
