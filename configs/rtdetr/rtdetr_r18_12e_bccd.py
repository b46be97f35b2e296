# BCCD at 256x192 from random weights, 12 epochs, for two CPU cores: AP50 0.76 on the test split (docs/rtdetr.md).
_base_ = ['../_base_/models/rtdetr_r18_scratch.py', '../_base_/small/bccd_256x192.py']

model = dict(bbox_head=dict(num_classes={{_base_.num_classes}}))
optim_wrapper = dict(optimizer=dict(lr=0.0005, weight_decay=0.0001), clip_grad=dict(max_norm=0.1))
