"""MMScale: feature fusion and small-object components for MMDetection."""
from . import stack
from .version import __version__

__all__ = ['__version__']

# `python -m mmscale` describes a stack on which the lines below may fail, `reproduce.py list` needs none of it.
if not stack.reporting() and not stack.reading_tables():
    try:
        from . import compat
        compat.apply()
    except Exception as error:
        stack.explain(error)
        raise
    from . import registry  # noqa: F401 (the scope must be known before the first config is built)
