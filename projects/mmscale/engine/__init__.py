"""What ``tools/train.py`` and ``tools/test.py`` do; also ``python -m mmscale.engine.train``."""
from . import reseed  # noqa: F401 (registers its hook)
