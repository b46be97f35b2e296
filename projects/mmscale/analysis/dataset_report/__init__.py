"""What to know of a data set before anyone trains on it."""

from .plots import draw_report
from .report import Report, dataset_report
from .text import to_markdown

__all__ = ['Report', 'dataset_report', 'draw_report', 'to_markdown']
