# DETR with the table's ResNet-50.
from mmengine import Config

_base_ = './_base_/transformer_125e_nwpu-vhr10.py'

# MMDetection has the model only within a whole config, which as a base cannot stand beside a data layer.
model = Config.fromstring("_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'", '.py').model
del Config
model.data_preprocessor.batch_augments = _base_.rtdetr_batch_augments
model.bbox_head.num_classes = _base_.num_classes
