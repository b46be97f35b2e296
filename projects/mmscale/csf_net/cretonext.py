"""CReToNeXt, CSF-Net's block in the branch of the P3 head.

Paper: "CSF-Net: Cross-Stage Fusion Network with Dual Backbone for Small Object Detection" (Wang et al.), section 3.3.
DAMO-YOLO's CSPStage has the same connections.

    x -+- 1x1 --> shallow ------------------------------------------+
       +- 1x1 --> deep -- block --+---------------------------------+-- concat -- 1x1 -->
                                  +-- block --+---------------------+
                                              +-- block --- ... ----+

What sets it apart from C2f: the two branches have 1x1 convolutions of their own, the shallow one is not processed
further, and the deep one's input itself is not kept, the output of every block is.
"""

from numbers import Real

import torch
from torch import Tensor, nn

from mmscale.options import is_whole_number
from mmscale.registry import MODELS
from mmscale.yolo.blocks import Bottleneck, conv

__all__ = ['CReToNeXt']


@MODELS.register_module()
class CReToNeXt(nn.Module):
    """A cross-stage block that keeps every block's output.

    Args:
        in_channels (int): C in.
        out_channels (int): C out.
        num_blocks (int): n, residual blocks on the deep branch. Defaults to 3.
        shallow_ratio (float): Width of the shallow branch over C out; the deep branch has the rest. The paper names two
            widths and gives none. Defaults to 0.5.
        norm_cfg (dict, optional): Defaults to None: batch norm with momentum 0.03 and epsilon 0.001.
        act_cfg (dict, optional): Defaults to None: SiLU.

    Raises:
        ValueError: If a branch has no channel, or ``num_blocks`` is no whole number from 1.

    Example:
        >>> import torch
        >>> CReToNeXt(48, 64)(torch.rand(1, 48, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 3,
        shallow_ratio: float = 0.5,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        if not is_whole_number(num_blocks):
            raise ValueError(f'num_blocks={num_blocks!r} of CReToNeXt should be a whole number from 1')
        if not isinstance(shallow_ratio, Real):
            raise ValueError(f'shallow_ratio={shallow_ratio!r} of CReToNeXt should be a number between 0 and 1')
        shallow = round(out_channels * shallow_ratio)
        deep = out_channels - shallow
        if shallow < 1 or deep < 1:
            raise ValueError(
                f'shallow_ratio={shallow_ratio} of CReToNeXt leaves {shallow} shallow and {deep} deep of '
                f'out_channels={out_channels}'
            )
        layers = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.shallow = conv(in_channels, shallow, **layers)
        self.deep = conv(in_channels, deep, **layers)
        self.blocks = nn.ModuleList(Bottleneck(deep, deep, expansion=1.0, **layers) for _ in range(num_blocks))
        self.fuse = conv(shallow + num_blocks * deep, out_channels, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C in, H, W)`` to ``(B, C out, H, W)``."""
        kept, deep = [self.shallow(x)], self.deep(x)
        for block in self.blocks:
            deep = block(deep)
            kept.append(deep)
        return self.fuse(torch.cat(kept, dim=1))
