"""Building blocks that two or more papers use."""

from .fpn import TopDownFPN
from .init import init_as_torch
from .mobileone import MobileOneBlock
from .rep_vgg import RepVGGBlock
from .reparam import fold_norm, reparameterize
from .transformer import SelfAttention, TransformerLayer

__all__ = [
    'MobileOneBlock',
    'RepVGGBlock',
    'SelfAttention',
    'TopDownFPN',
    'TransformerLayer',
    'fold_norm',
    'init_as_torch',
    'reparameterize',
]
