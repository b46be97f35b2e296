"""Kinds of parameters, as optimizers tell them apart: weights, norms, biases, and what a module keeps from decay."""

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..layers import RMSNorm2d

__all__ = ['parameter_kind']

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, RMSNorm2d)  # _NormBase: batch (synchronised, too) and instance norm


def parameter_kind(owner: nn.Module, name: str) -> Literal['weight', 'norm', 'bias', 'kept']:
    """What a parameter is.

    Args:
        owner (nn.Module): The module that it belongs to.
        name (str): Its name there, without the module's own.

    Returns:
        str: ``'norm'`` for weight and bias of batch, instance, group, layer and RMS norm; ``'kept'`` for what the
        module names in its attribute ``no_weight_decay``; ``'bias'`` for what is called ``bias`` or ``..._bias`` (as
        ``in_proj_bias`` of PyTorch's attention); ``'weight'`` for all else.

    Examples:
        >>> parameter_kind(nn.Conv2d(1, 1, 1), 'bias'), parameter_kind(nn.BatchNorm2d(1), 'bias')
        ('bias', 'norm')
    """
    if isinstance(owner, NORMS):
        return 'norm'
    if name in getattr(owner, 'no_weight_decay', ()):
        return 'kept'
    return 'bias' if name == 'bias' or name.endswith('_bias') else 'weight'
