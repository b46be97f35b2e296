"""The block of RepVGG without its identity branch, as RT-DETR's fusion blocks have it.

Papers: "RepVGG: Making VGG-style ConvNets Great Again" (Ding et al., CVPR 2021), section 3.2 and 3.3; "DETRs Beat YOLOs
on Real-time Object Detection" (Zhao et al., CVPR 2024), fig. 4.
"""

import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_activation_layer
from torch import Tensor, nn

from .reparam import fold_norm

__all__ = ['RepVGGBlock']


class RepVGGBlock(nn.Module):
    """``act(BN(conv3x3(x)) + BN(conv1x1(x)))``, one 3x3 convolution for inference.

    Args:
        channels (int): C, in and out.
        norm_cfg (dict): Normalisation of both branches. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation of their sum. Defaults to ``dict(type='SiLU', inplace=True)``.

    Example:
        >>> import torch
        >>> RepVGGBlock(8)(torch.rand(2, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(self, channels: int, norm_cfg: dict | None = None, act_cfg: dict | None = None) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='BN')
        self.conv3x3 = ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=None)
        self.conv1x1 = ConvModule(channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.act = build_activation_layer(act_cfg or dict(type='SiLU', inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        return self.act(self.conv3x3(x) + self.conv1x1(x))

    def reparameterized(self) -> nn.Module:
        """The same function in evaluation mode by one 3x3 convolution with a bias."""
        kernel, bias = fold_norm(self.conv3x3.conv, self.conv3x3.norm)
        kernel1x1, bias1x1 = fold_norm(self.conv1x1.conv, self.conv1x1.norm)
        conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, device=kernel.device, dtype=kernel.dtype)
        conv.weight.data = kernel + F.pad(kernel1x1, [1, 1, 1, 1])
        conv.bias.data = bias + bias1x1
        return nn.Sequential(conv, self.act)
