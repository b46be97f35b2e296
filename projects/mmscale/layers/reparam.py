"""Structural re-parameterisation: the trained form of a block becomes the form for inference.

A block takes part by having a method ``reparameterized() -> nn.Module``, which returns an equal module with fewer
operations. :func:`reparameterize` asks every block of a model that has one; and blocks of OpenMMLab's packages, which
change themselves by ``switch_to_deploy()`` (RepVGG's in MMYOLO's YOLOv6 and v7).
"""

import copy

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ['fold_norm', 'reparameterize']


def reparameterize(model: nn.Module) -> nn.Module:
    """The same network for inference: every block that can be folded is folded, in a copy.

    Args:
        model (nn.Module): Any model; it stays as it is.

    Returns:
        nn.Module: A copy in evaluation mode. A model without such blocks, or one that was folded before, comes back as
        a plain copy.

    Example:
        >>> import torch
        >>> from mmscale.layers import RepVGGBlock
        >>> block = RepVGGBlock(4).eval()
        >>> x = torch.rand(1, 4, 8, 8)
        >>> torch.allclose(block(x), reparameterize(block)(x), atol=1e-6)
        True
    """
    return _folded(copy.deepcopy(model).eval())


def _folded(module: nn.Module) -> nn.Module:
    if callable(getattr(module, 'reparameterized', None)):
        return module.reparameterized().eval()
    if callable(getattr(module, 'switch_to_deploy', None)):
        module.switch_to_deploy()
        return module.eval()
    for name, child in module.named_children():
        setattr(module, name, _folded(child))
    return module


def fold_norm(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Kernel and bias of one convolution that equals ``norm(conv(x))`` in evaluation mode.

    Args:
        conv (nn.Conv2d): Kernel ``(O, I / groups, K, K)``.
        norm (nn.Module): A batch norm over its O channels.

    Returns:
        tuple[Tensor, Tensor]: ``(O, I / groups, K, K)`` and ``(O,)``, without gradient.

    Raises:
        TypeError: If the norm is no batch norm: only that one is linear in evaluation mode.
    """
    if not isinstance(norm, _BatchNorm):
        raise TypeError(f'a {type(norm).__name__} cannot be folded into a convolution: only batch norms can')
    kernel, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return kernel.detach(), bias.detach()
