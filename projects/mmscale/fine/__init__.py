"""FINE: "Context-Guided Semantic Alignment for Feature Fusion Networks" (Lee, Lee and Kang).

Read in the paper's order: :mod:`.sampling` (4.2), :mod:`.attention` (4.3), :mod:`.fine` (4.1 and 4.4, fig. 2),
:mod:`.placement`, :mod:`.fpn` and :mod:`.hybrid_encoder` (where it stands in a detector).
"""

from .attention import (
    AreaCrossLevelAttention,
    CrossLevelAttention,
    LinearCrossLevelAttention,
    WindowCrossLevelAttention,
)
from .fine import FINE
from .fpn import FINEFPN
from .hybrid_encoder import FINEHybridEncoder

__all__ = [
    'FINE',
    'FINEFPN',
    'FINEHybridEncoder',
    'AreaCrossLevelAttention',
    'CrossLevelAttention',
    'LinearCrossLevelAttention',
    'WindowCrossLevelAttention',
]
