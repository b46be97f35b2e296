"""CSF-Net's neck: YOLOv8's with CReToNeXt in the branch of the P3 head.

Paper: "CSF-Net: Cross-Stage Fusion Network with Dual Backbone for Small Object Detection" (Wang et al.), section 3.3.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from mmscale.options import check_options, part_options
from mmscale.registry import MODELS
from mmscale.yolo.api import YOLOv8PAFPN, make_divisible
from mmscale.yolo.necks import CheckedNeckMixin, check_three_maps, scaled_widths

from .cretonext import CReToNeXt

__all__ = ['CSFPAFPN']

DERIVED = ('in_channels', 'out_channels', 'norm_cfg', 'act_cfg')  # options of CReToNeXt that the neck sets


@MODELS.register_module()
class CSFPAFPN(CheckedNeckMixin, YOLOv8PAFPN):
    """MMYOLO's ``YOLOv8PAFPN`` whose last top-down block, at stride 8, is a :class:`~mmscale.csf_net.CReToNeXt`.

    Args:
        in_channels (Sequence[int]): Channels of the maps of the strides 8, 16 and 32 before ``widen_factor``.
        out_channels (Sequence[int]): Channels of the outputs, likewise; YOLOv8's neck has the inputs'.
        *args: As MMYOLO's ``YOLOv8PAFPN``.
        cretonext (dict, optional): Options of CReToNeXt (``num_blocks``, ``shallow_ratio``). Defaults to None: two
            blocks, the fewest of which one follows another; the paper gives no number and speaks of a similar cost.
        **kwargs: As MMYOLO's ``YOLOv8PAFPN``.

    Raises:
        ValueError: If there are not three maps, their widths do not fit together, or an option is unknown.

    Example:
        >>> import torch
        >>> neck = CSFPAFPN([256, 512, 1024], [256, 512, 1024], deepen_factor=0.33, widen_factor=0.25)
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip([64, 128, 256], [8, 4, 2])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        *args,
        cretonext: dict | None = None,
        **kwargs,
    ) -> None:
        name = type(self).__name__
        check_options(name, type(self), kwargs)
        check_three_maps(name, in_channels, out_channels)
        if list(in_channels) != list(out_channels):
            raise ValueError(
                f"out_channels={out_channels} of {name} should equal in_channels={in_channels}: YOLOv8's neck has one "
                'width per level'
            )
        self.cretonext = {'num_blocks': 2, **part_options('cretonext', CReToNeXt, cretonext, DERIVED, name)}
        super().__init__(in_channels, out_channels, *args, **kwargs)
        self.input_widths = scaled_widths(in_channels, self.widen_factor)
        joined = scaled_widths(map(sum, pairwise(in_channels)), self.widen_factor)  # what YOLOv8's blocks are built for
        if joined != [*map(sum, pairwise(self.input_widths))]:
            raise ValueError(
                f'widen_factor={self.widen_factor} of {name} should make multiples of 8 of in_channels={in_channels}'
            )

    def build_top_down_layer(self, idx: int) -> nn.Module:
        """CReToNeXt at stride 8 (``idx`` 1), C2f at stride 16."""
        if idx != 1:
            return super().build_top_down_layer(idx)
        in_channels = make_divisible(self.in_channels[0] + self.in_channels[1], self.widen_factor)
        out_channels = make_divisible(self.out_channels[0], self.widen_factor)
        return CReToNeXt(in_channels, out_channels, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg, **self.cretonext)
