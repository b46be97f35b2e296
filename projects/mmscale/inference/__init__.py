"""Inference on images, folders, globs and videos, with a detector in PyTorch or in an ONNX file."""

from .coco_results import CocoResults
from .detections import Detections
from .drawing import draw_detections
from .onnx_model import OnnxModel
from .run import Summary, run
from .sources import Source, find_sources
from .torch_model import TorchModel

__all__ = [
    'CocoResults',
    'Detections',
    'OnnxModel',
    'Source',
    'Summary',
    'TorchModel',
    'draw_detections',
    'find_sources',
    'run',
]
