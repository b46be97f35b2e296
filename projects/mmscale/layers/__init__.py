"""Building blocks that two or more papers use."""

from .fpn import TopDownFPN

__all__ = ['TopDownFPN']
