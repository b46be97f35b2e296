"""HSD-DETR (Remote Sens. 2026, 18(10), 1577), whose parts are usable alone and together.

Read in the paper's order: HCSS-Fusion (:mod:`.hcss_fusion`, section 3.2) with its two-dimensional scan (:mod:`.ss2d`,
:mod:`.selective_scan`), SPDMixer (:mod:`.spd_mixer`, 3.3) and the backbone of both (:mod:`.hcss_net`), or SPDMixer
before a ResNet (:mod:`.resnet`); DSAIFI (:mod:`.dsaifi`, 3.4) with its attention (:mod:`.agsa`); the RF-MPDIoU loss
(:mod:`.rf_mpdiou`, 3.5) and how MMDetection's heads tell it the images' sizes (:mod:`.size_aware_heads`).
"""

from .agsa import AGSA
from .dsaifi import DSAIFI, DSAIFINeck
from .hcss_fusion import HCSSFusion
from .hcss_net import HCSSNet
from .resnet import SPDMixerResNet, SPDMixerResNetVd
from .rf_mpdiou import RFMPDIoULoss
from .size_aware_heads import (
    SizeAwareFCOSHead,
    SizeAwareMixin,
    SizeAwarePositivesMixin,
    SizeAwareRetinaHead,
    SizeAwareRoIHead,
    SizeAwareRoIMixin,
)
from .spd_mixer import ReparamDownsample, SPDMixer
from .ss2d import SS2D

__all__ = [
    'AGSA',
    'DSAIFI',
    'DSAIFINeck',
    'HCSSFusion',
    'HCSSNet',
    'RFMPDIoULoss',
    'ReparamDownsample',
    'SPDMixer',
    'SPDMixerResNet',
    'SPDMixerResNetVd',
    'SS2D',
    'SizeAwareFCOSHead',
    'SizeAwareMixin',
    'SizeAwarePositivesMixin',
    'SizeAwareRetinaHead',
    'SizeAwareRoIHead',
    'SizeAwareRoIMixin',
]
