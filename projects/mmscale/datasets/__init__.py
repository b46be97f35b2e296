"""Data sets that check themselves, and the loading of images; importing this registers them."""
from .coco import CityscapesDataset, CocoDataset
from .coco_file import CocoFile
from .noise import GaussianNoise
from .panoptic import LoadPanopticAnnotations
from .transforms import LoadImageFromFile
from .voc import VOCDataset

__all__ = ['CityscapesDataset', 'CocoDataset', 'CocoFile', 'GaussianNoise', 'LoadImageFromFile',
           'LoadPanopticAnnotations', 'VOCDataset']
