"""Metrics under named protocols; importing this registers them."""
from .coco_metric import CocoMetric
from .detection_metric import DetectionMetric
from .protocols import PROTOCOLS, Protocol, get_protocols

__all__ = ['CocoMetric', 'DetectionMetric', 'PROTOCOLS', 'Protocol', 'get_protocols']
