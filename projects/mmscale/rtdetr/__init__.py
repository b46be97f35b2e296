"""RT-DETR: "DETRs Beat YOLOs on Real-time Object Detection" (Zhao et al., CVPR 2024), the baseline of three papers.

Read in the order of its fig. 4: the backbones (:mod:`.resnet_vd`, :mod:`.hgnetv2`), the efficient hybrid encoder
(:mod:`.hybrid_encoder`), the query selection (:mod:`.query_selection`), the decoder (:mod:`.decoder` over
:mod:`.deformable_attention`), the head and its losses (:mod:`.head`, :mod:`.losses`, :mod:`.denoising`), and the
detector that joins them (:mod:`.detector`).
"""

from .decoder import RTDETRDecoder
from .denoising import ContrastiveDenoising
from .detector import RTDETR
from .head import RTDETRHead
from .hgnetv2 import HGNetV2
from .hybrid_encoder import AIFI, HybridEncoder
from .losses import IoUVarifocalLoss
from .resnet_vd import ResNetVd

__all__ = [
    'AIFI',
    'HGNetV2',
    'HybridEncoder',
    'ContrastiveDenoising',
    'IoUVarifocalLoss',
    'RTDETR',
    'RTDETRDecoder',
    'RTDETRHead',
    'ResNetVd',
]
