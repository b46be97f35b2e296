"""Data sets that check themselves, the loading of images, and few shots; importing this registers them."""
from .coco import CityscapesDataset, CocoDataset
from .coco_file import CocoFile
from .few_shot import FewShotSampler, few_shot_indices
from .noise import GaussianNoise
from .panoptic import LoadPanopticAnnotations
from .transforms import LoadImageFromFile
from .voc import VOCDataset

__all__ = ['CityscapesDataset', 'CocoDataset', 'CocoFile', 'FewShotSampler', 'GaussianNoise',
           'LoadImageFromFile', 'LoadPanopticAnnotations', 'VOCDataset', 'few_shot_indices']
