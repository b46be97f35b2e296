"""CFAM, the cross-layer feature attention module: squeeze-and-excitation over the channels of all levels at once.

Paper: "Cross-Layer Feature Attention Module for Multi-scale Object Detection" (Zheng, Pang and Lan, ISAIR 2022).

    F1 -- 1x1 --+--------------------------------------- * --> F1'
                +-- mean --+                     +-- s1 -+
                           +-- cat -- W1, ReLU, W2, sigmoid
                +-- mean --+                     +-- s2 -+
    F2 -- 1x1 --+--------------------------------------- * --> F2'

The structure is inferred: the paper's full text was not at hand. Known are two sentences and a cost. CFSAM (arXiv
2510.14726) says that it "explicitly models the interdependencies between different-level feature maps, allowing the
network to focus on higher-level feature maps for detecting large objects and lower-level feature maps for detecting
small objects", and counts it to the channel attentions; its table 4 prints 25.69 M parameters and 30.93 GMACs for
SSD300-CFAM, fewer than SSD300's 26.29 and 31.37. Attention alone only adds; what saves is one width of 256 for all maps
and so for the head, whose two finest maps have 512 and 1,024. With 1x1 convolutions to that width, and one excitation
(r = 16) over the descriptors of all six maps, both figures come out as printed.

Ours, for the cost does not tell: plain convolutions with a bias; an excitation as in SE, without biases.

Shape shorthand in this module:
    B: batch, Ci: channels of level i, C: channels of all levels, n: levels, r: reduction, Hi, Wi: size of level i
"""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers.levels import check_widths, checked_levels
from mmscale.registry import MODELS

from .se import Excitation

__all__ = ['CFAM']


@MODELS.register_module()
class CFAM(BaseModule):
    """Any number of maps of any widths and sizes to as many of the same sizes and of one width.

    In a detector it stands behind the neck, and the head takes its width: ``neck=[dict(type='SSDNeck', ...),
    dict(type='mmscale.CFAM', in_channels=(512, 1024, 512, 256, 256, 256))]`` and ``bbox_head=dict(in_channels=(256,) *
    6)``. All levels take part: there is no choice of levels, since maps left out would keep another width. Padding that
    the data pre-processor added to the images is part of the means: a neck sees no mask.

    Args:
        in_channels (Sequence[int]): Width of every map.
        out_channels (int, optional): C, to which a 1x1 convolution brings every map. None for no convolutions, with
            attention over the maps' own widths, which stay; ours. Defaults to 256.
        reduction (int): r, the width of all descriptors together over that of the hidden layer. Defaults to 16.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to Xavier's uniform one for
            convolutions and linear layers, as in MMDetection's SSD neck and head.

    Raises:
        ValueError: If an argument is out of its range, or the maps of ``forward`` are not those of ``in_channels``.

    Example:
        >>> neck = CFAM(in_channels=[64, 32], out_channels=16)
        >>> [tuple(x.shape) for x in neck([torch.rand(2, 64, 5, 7), torch.rand(2, 32, 1, 1)])]
        [(2, 16, 5, 7), (2, 16, 1, 1)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | None = 256,
        reduction: int = 16,
        init_cfg: dict | list | None = dict(type='Xavier', layer=['Conv2d', 'Linear'], distribution='uniform'),  # noqa: B006
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = list(in_channels)
        checked_levels('CFAM', None, len(self.in_channels))
        if out_channels is None:
            self.widths = self.in_channels
            self.convs = nn.ModuleList(nn.Identity() for _ in self.in_channels)
        elif isinstance(out_channels, int) and out_channels > 0:
            self.widths = [out_channels] * len(self.in_channels)
            self.convs = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in self.in_channels)
        else:
            raise ValueError(f'out_channels={out_channels!r} of CFAM should be a whole number from 1, or None')
        self.excitation = Excitation(sum(self.widths), reduction)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Weigh every channel of every level by what all levels show.

        Args:
            inputs (Sequence[Tensor]): One map per entry of ``in_channels``, ``(B, in_channels[i], H_i, W_i)``.

        Returns:
            tuple[Tensor]: As many maps, ``(B, out_channels, H_i, W_i)``.

        Raises:
            ValueError: If the number of maps or a map's width is not what the module was built for.
        """
        check_widths('CFAM', inputs, self.in_channels)
        maps = [conv(x) for conv, x in zip(self.convs, inputs, strict=True)]
        squeezed = torch.cat([x.mean(dim=(2, 3)) for x in maps], dim=1)  # (B, n * C)
        shares = self.excitation(squeezed).split(self.widths, dim=1)
        return tuple(x * share[:, :, None, None] for x, share in zip(maps, shares, strict=True))
