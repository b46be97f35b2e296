_base_ = './rtdetr_r50_8xb2-72e_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmscale.HGNetV2',
        arch='L',
        out_indices=(1, 2, 3),
        frozen_stages=0,
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/lyuwenyu/storage/releases/download/v0.1/'
            'PPHGNetV2_L_ssld_pretrained_from_paddle.pth')))

optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.05)}))
