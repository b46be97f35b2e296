"""Converters: other annotation formats into COCO json, for data sets that MMDetection has no reader of.

Every converter reads the whole data set before it writes a byte, replaces the old file in one step, and returns a
:class:`Summary` of what it kept and what it dropped.
"""
from .coco import CocoBuilder, Summary
from .image_size import read_image_size
from .micro_uav import MICRO_UAV_CLASSES, convert_micro_uav
from .nwpu import NWPU_CLASSES, convert_nwpu, split_names
from .visdrone import VISDRONE_CLASSES, convert_visdrone
from .voc import BCCD_CLASSES, VOC_CLASSES, convert_voc

__all__ = [
    'BCCD_CLASSES', 'MICRO_UAV_CLASSES', 'NWPU_CLASSES', 'VISDRONE_CLASSES', 'VOC_CLASSES', 'CocoBuilder', 'Summary',
    'convert_micro_uav', 'convert_nwpu', 'convert_visdrone', 'convert_voc', 'read_image_size', 'split_names'
]
