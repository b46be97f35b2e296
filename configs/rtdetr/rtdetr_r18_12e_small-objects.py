# Generated small objects at 192x192 from random weights for two CPU cores, by the recipe of the small RT-DETR on BCCD:
# tools/data/generate.py --root data/small_objects --size 192 --images-train 200 --images-val 60 --objects 1 6
_base_ = ['../_base_/models/rtdetr_r18_scratch.py', '../_base_/small/small_objects_192x192.py']

model = dict(bbox_head=dict(num_classes={{_base_.num_classes}}))
optim_wrapper = dict(optimizer=dict(lr=0.0005, weight_decay=0.0001), clip_grad=dict(max_norm=0.1))
