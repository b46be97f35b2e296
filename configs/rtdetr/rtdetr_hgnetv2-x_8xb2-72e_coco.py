_base_ = './rtdetr_hgnetv2-l_8xb2-72e_coco.py'

model = dict(
    backbone=dict(
        arch='X',
        init_cfg=dict(
            checkpoint='https://github.com/lyuwenyu/storage/releases/download/v0.1/'
            'PPHGNetV2_X_ssld_pretrained_from_paddle.pth')),
    neck=dict(out_channels=384, aifi=dict(feedforward_channels=2048)))

optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.01)}))
