_base_ = './rtdetr_r18_8xb2-72e_coco.py'

model = dict(
    backbone=dict(
        depth=34,
        init_cfg=dict(
            checkpoint='https://github.com/lyuwenyu/storage/releases/download/v0.1/'
            'ResNet34_vd_pretrained_from_paddle.pth')),
    decoder=dict(num_layers=4))
