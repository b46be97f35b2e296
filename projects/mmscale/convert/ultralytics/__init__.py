"""State dicts of the official YOLOv8, YOLOv10 and YOLOv12 into ours."""

from .convert import convert
from .file import read_state
from .layout import Layout, read_layout

__all__ = ['Layout', 'convert', 'read_layout', 'read_state']
