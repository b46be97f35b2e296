"""The block of MobileOne: several linear branches for training, one convolution for inference.

Paper: "MobileOne: An Improved One millisecond Mobile Backbone" (Vasu et al., CVPR 2023), section 3.2 and fig. 3. The
branches with a kernel are over-parameterised k times, the scale branch once. Convolutions start as torch makes them.

Shape shorthand in this module:
    B: batch, I: channels in, O: channels out, G: groups, K: kernel size, S: stride
"""

import copy
from collections import OrderedDict
from functools import reduce

import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import Tensor, nn

from .reparam import fold_norm

__all__ = ['MobileOneBlock']


class MobileOneBlock(nn.Module):
    """``act(sum of the branches)``: k times conv + BN, 1x1 conv + BN, and BN alone where the shapes allow it.

    .. code-block:: text

        x ─┬─ KxK conv ── BN ─┐  k times
           ├─ 1x1 conv ── BN ─┼─ + ── act      1x1: where K > 1
           └────────────── BN ─┘                BN alone: where I = O and S = 1

    Args:
        in_channels (int): I.
        out_channels (int): O.
        kernel_size (int): K, odd; the padding is K // 2. Defaults to 3.
        stride (int): S. Defaults to 1.
        groups (int): G, a divisor of I and O; I for a depthwise block. Defaults to 1.
        num_branches (int): k. Defaults to 1.
        norm_cfg (dict, optional): Normalisation of every branch. Only batch norms can be folded. Defaults to None,
            ``dict(type='BN')``.
        act_cfg (dict | bool, optional): Activation of the sum. Defaults to None, the paper's
            ``dict(type='ReLU', inplace=True)``; False for none.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> MobileOneBlock(8, 16, stride=2, groups=8, num_branches=4)(torch.rand(2, 8, 5, 7)).shape
        torch.Size([2, 16, 3, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        num_branches: int = 1,
        norm_cfg: dict | None = None,
        act_cfg: dict | bool | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(in_channels, out_channels, kernel_size, stride, groups, num_branches, act_cfg)
        norm_cfg = norm_cfg or dict(type='BN')

        def conv_norm(kernel: int) -> nn.Sequential:
            conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
            return nn.Sequential(OrderedDict(conv=conv, norm=build_norm_layer(norm_cfg, out_channels)[1]))

        self.convs = nn.ModuleList(conv_norm(kernel_size) for _ in range(num_branches))
        self.scale = conv_norm(1) if kernel_size > 1 else None
        keeps_shape = in_channels == out_channels and stride == 1
        self.identity = build_norm_layer(norm_cfg, out_channels)[1] if keeps_shape else None
        if act_cfg is False:
            self.act = nn.Identity()
        else:
            self.act = build_activation_layer(act_cfg or dict(type='ReLU', inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, I, H, W)`` to ``(B, O, ceil(H / S), ceil(W / S))``."""
        branches = [*self.convs, self.scale, self.identity]
        return self.act(reduce(Tensor.add, [branch(x) for branch in branches if branch is not None]))

    def reparameterized(self) -> nn.Module:
        """The same function in evaluation mode by one KxK convolution with a bias."""
        conv = copy.deepcopy(self.convs[0].conv)
        folded = [fold_norm(branch.conv, branch.norm) for branch in self.convs]
        if self.scale is not None:
            kernel, bias = fold_norm(self.scale.conv, self.scale.norm)
            folded.append((F.pad(kernel, [conv.padding[0]] * 4), bias))
        if self.identity is not None:
            nn.init.dirac_(conv.weight, conv.groups)  # for the moment, the convolution that copies its input
            folded.append(fold_norm(conv, self.identity))
        kernels, biases = zip(*folded, strict=True)
        conv.weight, conv.bias = nn.Parameter(sum(kernels)), nn.Parameter(sum(biases))
        return nn.Sequential(conv, self.act)


def _check_arguments(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    groups: int,
    num_branches: int,
    act_cfg: dict | bool | None,
) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f'kernel_size={kernel_size} must be odd and positive')
    if stride < 1:
        raise ValueError(f'stride={stride} must be at least 1')
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(f'groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}')
    if num_branches < 1:
        raise ValueError(f'num_branches={num_branches} must be at least 1')
    if act_cfg is True:
        raise ValueError('act_cfg=True must be a config, None for the ReLU of MobileOne, or False for no activation')
