"""Local feature extraction, LFE: what each level's neighbourhood says, at one width for all levels.

Paper: CFSAM (arXiv 2510.14726), section 3.1 and the inner part of eq. 1: ``Conv1x1(Conv3x3(F_i))``.

Shape shorthand in this module:
    B: batch, Ci: channels of level i, C: channels of the tokens, Hi, Wi: size of level i
"""

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmengine.model import ModuleList
from torch import Tensor, nn

__all__ = ['LocalFeatureExtraction']


class LocalFeatureExtraction(ModuleList):
    """A 3x3 convolution (Ci to Ci) and a 1x1 convolution (Ci to C) for each level.

    Args:
        in_channels (Sequence[int]): Ci of every level.
        channels (int): C.
        depthwise (bool): Whether the 3x3 convolution is depthwise. Defaults to False, the paper's.
        norm_cfg (dict, optional): Normalisation between the two. Defaults to None, the paper's eq. 1.
        act_cfg (dict, optional): Activation between the two. Defaults to None, the paper's eq. 1.

    Example:
        >>> import torch
        >>> lfe = LocalFeatureExtraction([16, 32], 8)
        >>> [tuple(x.shape) for x in lfe([torch.rand(2, 16, 5, 5), torch.rand(2, 32, 3, 3)])]
        [(2, 8, 5, 5), (2, 8, 3, 3)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        depthwise: bool = False,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            nn.Sequential(
                ConvModule(
                    width,
                    width,
                    3,
                    padding=1,
                    groups=width if depthwise else 1,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                ),
                nn.Conv2d(width, channels, 1),
            )
            for width in in_channels
        )

    def init_weights(self) -> None:
        """As whoever holds it says; depthwise convolutions by Xavier for the one channel that each kernel sees.

        Xavier's rule counts a layer's channels as if they were connected, and would start those near zero.
        """
        super().init_weights()
        for convs in self:
            conv = convs[0].conv
            if conv.groups > 1:
                bound = (6 / (2 * conv.weight[0].numel())) ** 0.5
                nn.init.uniform_(conv.weight, -bound, bound)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """F1, F2, ... ``(B, Ci, Hi, Wi)`` to L1, L2, ... ``(B, C, Hi, Wi)``."""
        return [convs(x) for convs, x in zip(self, maps, strict=True)]
