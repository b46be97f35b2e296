"""Metrics under named protocols; importing this registers them."""

from .coco_metric import CocoMetric
from .detection_metric import DetectionMetric
from .error_metric import DetectionErrorMetric
from .panoptic_metric import PanopticMetric
from .protocols import PROTOCOLS, Protocol, get_protocols

__all__ = [
    'CocoMetric',
    'DetectionErrorMetric',
    'DetectionMetric',
    'PROTOCOLS',
    'PanopticMetric',
    'Protocol',
    'get_protocols',
]
