"""HCSS-Fusion: convolution for what is near, a selective scan for what is far, and a mask that says where which counts.

Paper: HSD-DETR (Remote Sens. 2026, 18(10), 1577), section 3.2, eqs. 1 to 6, fig. 2.

    x --+-- depthwise 3x3 --> local --+--------------------------- 1x1 -- * --+
        |                             |                                   ^   |
        |                             +-- + --> U -- mean, max -- 7x7 -- sigmoid, two masks     + --> out
        |                             |                                   v   |
        +-- SS2D ----------> global --+--------------------------- 1x1 -- * --+

From the paper: the two branches, their sum U, its mean and maximum over the channels, a large kernel and a sigmoid for
two masks, the projections of the branches and their masked sum. Ours: a batch norm behind the depthwise convolution and
behind either projection, and the large kernel's size of 7, which is lost in our text.

Shape shorthand in this module:
    B: batch, C: channels, H, W: size of the map
"""

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers import init_as_torch
from mmscale.options import check_options
from mmscale.registry import MODELS

from .ss2d import SS2D

__all__ = ['HCSSFusion']


@MODELS.register_module()
class HCSSFusion(BaseModule):
    """A map to a map of the same shape.

    It also fits MMDetection's ResNets of depth 50 and more as a plugin:
    ``plugins=[dict(cfg=dict(type='mmscale.HCSSFusion'), stages=(False, True, True, True), position='after_conv2')]``.

    Args:
        in_channels (int): C.
        kernel_size (int): Of the local branch, odd. Defaults to 3.
        mask_kernel_size (int): Of the convolution that makes the masks, odd. Defaults to 7; ours.
        ss2d (dict, optional): Options of :class:`~mmscale.hsd_detr.ss2d.SS2D` but ``channels`` (``state_channels``,
            ``expansion``, ``head_channels``, ``directions``, ``chunk``). Defaults to None.
        norm_cfg (dict, optional): Normalisation, but SS2D's. Defaults to None, ``dict(type='BN')``.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None, PyTorch's own.

    Raises:
        ValueError: If an argument is out of its range, or an option of ``ss2d`` is unknown.

    Example:
        >>> HCSSFusion(16)(torch.rand(2, 16, 5, 7)).shape
        torch.Size([2, 16, 5, 7])
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 3,
        mask_kernel_size: int = 7,
        ss2d: dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        for name, size in dict(kernel_size=kernel_size, mask_kernel_size=mask_kernel_size).items():
            if size < 1 or size % 2 == 0:
                raise ValueError(f'{name}={size} of HCSSFusion should be odd')
        norm_cfg = norm_cfg or dict(type='BN')
        ss2d = ss2d or {}
        check_options('ss2d', SS2D, ss2d, reserved=('channels', 'init_cfg'))
        cfg = dict(norm_cfg=norm_cfg, act_cfg=None)
        self.local = ConvModule(
            in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=in_channels, **cfg
        )
        self.ss2d = SS2D(in_channels, **ss2d)
        self.masks = nn.Conv2d(2, 2, mask_kernel_size, padding=mask_kernel_size // 2)
        self.local_proj = ConvModule(in_channels, in_channels, 1, **cfg)
        self.global_proj = ConvModule(in_channels, in_channels, 1, **cfg)

    def init_weights(self) -> None:
        """PyTorch's own distributions for convolutions; the scan has its own."""
        super().init_weights()
        if self.init_cfg is None:
            init_as_torch(self)  # behind MMCV's ConvModule, which draws its own from another distribution

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        local, context = self.local(x), self.ss2d(x)  # eq. 3
        united = local + context  # eq. 4
        descriptors = torch.cat((united.mean(1, keepdim=True), united.amax(1, keepdim=True)), dim=1)
        local_mask, global_mask = self.masks(descriptors).sigmoid().split(1, dim=1)  # eq. 5
        return local_mask * self.local_proj(local) + global_mask * self.global_proj(context)  # eq. 6
