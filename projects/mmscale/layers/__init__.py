"""Building blocks that two or more papers use."""

from .fpn import TopDownFPN
from .init import init_as_torch
from .mobileone import MobileOneBlock
from .norm import RMSNorm2d
from .precision import full_precision
from .rep_vgg import RepVGGBlock
from .reparam import fold_norm, reparameterize
from .transformer import SelfAttention, TransformerLayer

__all__ = [
    'MobileOneBlock',
    'RMSNorm2d',
    'RepVGGBlock',
    'SelfAttention',
    'TopDownFPN',
    'TransformerLayer',
    'fold_norm',
    'full_precision',
    'init_as_torch',
    'reparameterize',
]
