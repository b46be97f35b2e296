# Deformable DETR with the table's ResNet-50: one stage, boxes not refined.
from mmengine import Config

_base_ = './_base_/transformer_125e_nwpu-vhr10.py'

# MMDetection has the model only within a whole config, which as a base cannot stand beside a data layer.
model = Config.fromstring("_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'", '.py').model
del Config
model.data_preprocessor.batch_augments = _base_.rtdetr_batch_augments
model.bbox_head.num_classes = _base_.num_classes

# the tenth of the rate that its authors and MMDetection give what finds the places to look at
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'sampling_offsets': dict(lr_mult=0.1), 'reference_points': dict(lr_mult=0.1)}))
