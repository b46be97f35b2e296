"""HMPE (Zeng et al., 2025): heatmaps that lead an RT-DETR's encoder and queries, and Linear-Snake convolution.

Read in the order of its figs. 2 and 3: the heatmaps by gradients (:mod:`.heatmaps`), the head that learns to predict
them (:mod:`.heatmap_head`), the snakes (:mod:`.snake_conv`), the encoder's attention (:mod:`.mohfe`) within RT-DETR's
encoder (:mod:`.encoder`), the queries (:mod:`.hidq`), the losses (:mod:`.head`), and the detector that joins them
(:mod:`.detector`).
"""

from .detector import HMPE
from .encoder import HMPEEncoder
from .head import HMPEHead
from .heatmap_head import HeatmapHead, Heatmaps
from .hidq import HIDQ
from .mohfe import MOHFE
from .snake_conv import DSConv, LSConv, SnakeBottleneck, SnakeNeck

__all__ = [
    'HIDQ',
    'HMPE',
    'HMPEEncoder',
    'HMPEHead',
    'MOHFE',
    'DSConv',
    'HeatmapHead',
    'Heatmaps',
    'LSConv',
    'SnakeBottleneck',
    'SnakeNeck',
]
