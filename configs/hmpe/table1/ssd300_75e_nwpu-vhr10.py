# SSD300. The table names a ResNet-18; its 26.29 M parameters are those with VGG-16 and VOC's classes, which SSD and
# MMDetection have. 300x300 and the augmentation are SSD's own; the anchors are COCO's, the smaller ones.
_base_ = ['../../_base_/models/ssd300.py', './_base_/cnn_75e_nwpu-vhr10.py']

model = dict(bbox_head=dict(num_classes={{_base_.num_classes}}))

train_pipeline = _base_.ssd_train_pipeline
test_pipeline = _base_.ssd_test_pipeline
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=0.001, weight_decay=0.0005))  # the authors'; VGG-16 has no batch norm
