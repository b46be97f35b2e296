"""DFuse, CSF-Net's dynamic fusion: maps of any number, width and size, added up at a reference's.

Paper: "CSF-Net: Cross-Stage Fusion Network with Dual Backbone for Small Object Detection" (Wang et al.), section 3.2.
The introduction calls the module input-conditioned; section 3.2 says plainly that it is not: "dynamic" is that it takes
any maps. Section 3.2 rules. YOLOv9 has the same idea as CBFuse.

    x_i -- 1x1 where its width differs -- nearest to the reference's size --+
    x_n (reference) --------------------------------------------------------+-- add -->
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmscale.layers.levels import check_widths
from mmscale.options import are_whole_numbers
from mmscale.registry import MODELS

__all__ = ['DFuse', 'nearest_to']


def nearest_to(x: Tensor, reference: Tensor) -> Tensor:
    """``(B, C, H, W)`` at the reference's height and width, by nearest neighbours; itself where the size fits."""
    size = reference.shape[-2:]
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode='nearest')


@MODELS.register_module()
class DFuse(nn.Module):
    """The sum of maps, brought to the width and the size of the last one.

    Args:
        in_channels (Sequence[int]): Width of every map; the last one is the reference. A map of another width than the
            reference's passes a 1x1 convolution.

    Raises:
        ValueError: If there is no list of widths.

    Example:
        >>> import torch
        >>> maps = [torch.rand(1, 16, 40, 40), torch.rand(1, 32, 10, 10), torch.rand(1, 32, 20, 20)]
        >>> DFuse([16, 32, 32])(maps).shape
        torch.Size([1, 32, 20, 20])
    """

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        if not are_whole_numbers(in_channels):
            raise ValueError(f'in_channels={in_channels!r} of DFuse should be a list of positive whole numbers')
        if not in_channels:
            raise ValueError('in_channels=[] of DFuse names no map; the last one is the reference')
        self.in_channels = list(in_channels)
        width = self.in_channels[-1]
        self.project = nn.ModuleList(
            nn.Identity() if channels == width else nn.Conv2d(channels, width, 1) for channels in in_channels[:-1]
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse.

        Args:
            maps (Sequence[Tensor]): ``(B, Ci, Hi, Wi)`` each, the reference ``(B, C, H, W)`` last.

        Returns:
            Tensor: ``(B, C, H, W)``.

        Raises:
            ValueError: If maps have another number or other widths than the module was built for.
        """
        check_widths('DFuse', maps, self.in_channels)
        *others, fused = maps
        for project, x in zip(self.project, others, strict=True):
            fused = fused + nearest_to(project(x), maps[-1])
        return fused
