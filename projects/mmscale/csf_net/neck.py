"""CSF-Net's neck: YOLOv8's with CReToNeXt in the branch of the P3 head.

Paper: "CSF-Net: Cross-Stage Fusion Network with Dual Backbone for Small Object Detection" (Wang et al.), section 3.3.
"""

from torch import nn

from mmscale.registry import MODELS
from mmscale.yolo.api import YOLOv8PAFPN

from .cretonext import CReToNeXt

__all__ = ['CSFPAFPN']


@MODELS.register_module()
class CSFPAFPN(YOLOv8PAFPN):
    """MMYOLO's ``YOLOv8PAFPN`` whose last top-down block, at stride 8, is a :class:`~mmscale.csf_net.CReToNeXt`.

    Args:
        *args: As MMYOLO's ``YOLOv8PAFPN``.
        cretonext (dict, optional): Options of CReToNeXt (``num_blocks``, ``shallow_ratio``). Defaults to None: two
            blocks, the fewest of which one follows another; the paper gives no number and speaks of a similar cost.
        **kwargs: As MMYOLO's ``YOLOv8PAFPN``.

    Example:
        >>> import torch
        >>> neck = CSFPAFPN([256, 512, 1024], [256, 512, 1024], deepen_factor=0.33, widen_factor=0.25)
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip([64, 128, 256], [8, 4, 2])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    """

    def __init__(self, *args, cretonext: dict | None = None, **kwargs) -> None:
        self.cretonext = {'num_blocks': 2, **(cretonext or {})}
        super().__init__(*args, **kwargs)

    def build_top_down_layer(self, idx: int) -> nn.Module:
        """CReToNeXt at stride 8 (``idx`` 1), C2f at stride 16."""
        block = super().build_top_down_layer(idx)
        if idx != 1:
            return block
        in_channels, out_channels = block.main_conv.in_channels, block.final_conv.out_channels
        return CReToNeXt(in_channels, out_channels, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg, **self.cretonext)
