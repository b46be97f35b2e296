"""Detectors as one ONNX file: pixels in; boxes, scores and labels out.

:func:`build_file` exports, :func:`check_batches` compares the file with PyTorch. How a family of detectors ends, after
its network, is an adapter's business: :class:`ExportableDense`, :class:`ExportableRTDETR`, where MMYOLO is installed
``ExportableYOLO`` and ``ExportableYOLOv10``, or one of yours (:func:`register_adapter`).
"""

from mmscale.registry import HAS_MMYOLO

from .check import Agreement, check_batches
from .dense import ExportableDense
from .detector import ExportableDetector, find_adapter, register_adapter
from .export import build_exportable, build_file, write_file
from .rtdetr import ExportableRTDETR

__all__ = [
    'Agreement',
    'ExportableDense',
    'ExportableDetector',
    'ExportableRTDETR',
    'build_exportable',
    'build_file',
    'check_batches',
    'find_adapter',
    'register_adapter',
    'write_file',
]

if HAS_MMYOLO:
    from .yolo import ExportableYOLO, ExportableYOLOv10

    __all__ += ['ExportableYOLO', 'ExportableYOLOv10']
