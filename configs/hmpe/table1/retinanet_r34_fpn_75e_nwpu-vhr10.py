# RetinaNet with the table's ResNet-34.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', './_base_/cnn_75e_nwpu-vhr10.py']

model = dict(
    backbone=dict(depth=34, init_cfg=dict(checkpoint='torchvision://resnet34')),
    neck=dict(in_channels=[64, 128, 256, 512]),
    bbox_head=dict(num_classes={{_base_.num_classes}}))
