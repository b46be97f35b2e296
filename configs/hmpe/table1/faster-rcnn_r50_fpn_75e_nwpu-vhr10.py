# Faster R-CNN. The table names VGG-16, which MMDetection has for SSD alone; its 41.1 M parameters are those of a
# ResNet-50 with an FPN (41.4 M), MMDetection's own.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', './_base_/cnn_75e_nwpu-vhr10.py']

model = dict(roi_head=dict(bbox_head=dict(num_classes={{_base_.num_classes}})))

optim_wrapper = dict(optimizer=dict(lr=0.02))  # MMDetection's
