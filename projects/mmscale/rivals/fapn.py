"""FaPN: select what the low level has to say, and move the high level's pixels to where they belong.

Paper: "FaPN: Feature-aligned Pyramid Network for Dense Image Prediction" (Huang, Lu, Cheng and He, ICCV 2021), its
feature selection module (FSM) and feature alignment module (FAM); code: github.com/EMI-Group/FaPN.

    C_low -- FSM ----------------+--------------------------------+
                                 |                                |
                                 +-- cat -- 1x1 -- offsets, mask  |
                                 |                       |        |
    F_high -- bilinear up --+-- x2                       v        v
                            +------------------> DCNv2, ReLU --> add --> F_low

From the paper and its code: both modules, the factor 2 before the concatenation, DCNv2 3x3 with 8 groups of offsets
that start at zero, no FSM on the top level, bilinear upsampling. Ours: the 1x1 convolution of an FSM keeps the bias of
FPN's lateral convolutions, and the top level keeps FPN's 3x3 output convolution (the code has neither).

FINE's table 2 counts another form (its authors' own, in torchvision): FAM at the two upper fusions alone, nearest
upsampling, FSM with a group norm on every level, and ``groups=8`` for DCNv2's weights, not only for its offsets:

    dict(type='mmscale.FaPN', align_levels=[1, 2], select_levels=[0, 1, 2, 3], groups=8,
         upsample_cfg=dict(mode='nearest'), select_norm_cfg=dict(type='GN', num_groups=32),
         offset_norm_cfg=dict(type='BN'))

Shape shorthand in this module:
    B: batch, C: channels of the neck, Ci: channels of the backbone's level, H, W: size of the low level
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.ops import ModulatedDeformConv2d
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from mmscale.layers import TopDownFPN
from mmscale.registry import MODELS

__all__ = ['FaPN', 'FeatureAlignment', 'FeatureSelection']


class FeatureSelection(nn.Module):
    """FSM: ``conv(x + x * sigmoid(f(mean of x)))``, the channels that matter doubled at most, before they are reduced.

    Args:
        channels (int): Ci.
        conv (nn.Module): Reduces Ci to C channels.
        norm_cfg (dict, optional): Normalisation of the channels' weights before the sigmoid. Defaults to None.
    """

    def __init__(self, channels: int, conv: nn.Module, norm_cfg: dict | None = None) -> None:
        super().__init__()
        self.gate = ConvModule(channels, channels, 1, bias=False, norm_cfg=norm_cfg, act_cfg=None)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """``(B, Ci, H, W)`` to ``(B, C, H, W)``."""
        importance = self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid()
        return self.conv(torch.addcmul(x, x, importance))


class FeatureAlignment(BaseModule):
    """FAM: sample the upsampled high level where the difference of both levels says, ``ReLU(DCNv2(high))``.

    Args:
        channels (int): C, of both levels.
        deform_groups (int): Groups of channels that share their offsets. Defaults to 8.
        groups (int): Groups of DCNv2's convolution. Defaults to 1.
        norm_cfg (dict, optional): Normalisation after the 1x1 convolution of both levels. Defaults to None.
    """

    def __init__(self, channels: int, deform_groups: int = 8, groups: int = 1, norm_cfg: dict | None = None) -> None:
        super().__init__()
        for name, value in (('deform_groups', deform_groups), ('groups', groups)):
            if not isinstance(value, int) or value < 1 or channels % value:
                raise ValueError(f'{name}={value!r} must be a whole number that divides out_channels={channels}')
        self.difference = ConvModule(2 * channels, channels, 1, bias=False, norm_cfg=norm_cfg, act_cfg=None)
        self.offset = nn.Conv2d(channels, deform_groups * 3 * 9, 3, padding=1)  # x, y and mask of 9 taps
        self.conv = ModulatedDeformConv2d(channels, channels, 3, padding=1, groups=groups, deform_groups=deform_groups)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero offsets and a mask of one half: training starts from half a plain convolution."""
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def init_weights(self) -> None:
        """The zero start, whatever the neck's ``init_cfg`` did to convolutions."""
        self.reset_parameters()
        super().init_weights()

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Align ``high`` with ``low``, both ``(B, C, H, W)``."""
        difference = self.difference(torch.cat((low, 2 * high), dim=1))
        offset, mask = self.offset(difference).tensor_split([self.offset.out_channels // 3 * 2], dim=1)
        dtype = offset.dtype
        if dtype is torch.bfloat16:  # MMCV's kernel knows single, double and half precision
            high, offset, mask = high.float(), offset.float(), mask.float()
        # It reads memory in the order (B, C, H, W) whatever the layout is: a channels-last map comes out wrong.
        high, offset, mask = high.contiguous(), offset.contiguous(), mask.sigmoid().contiguous()
        return F.relu(self.conv(high, offset, mask)).to(dtype)


@MODELS.register_module()
class FaPN(TopDownFPN):
    """Feature-aligned pyramid network: an FPN with FSM for its lateral convolutions and FAM before its fusions.

    A level is named by its place in ``in_channels``. DCNv2 is MMCV's compiled operator: it runs on CPUs and GPUs and
    has no ONNX export of its own.

    Args:
        *args: As MMDetection's ``FPN``.
        align_levels (Sequence[int], optional): The low levels whose fusion has a FAM. Defaults to None, all of them.
        select_levels (Sequence[int], optional): The levels with an FSM. Defaults to None, all but the top one.
        deform_groups (int): Groups of channels that share their offsets. Defaults to 8.
        groups (int): Groups of DCNv2's convolution. Defaults to 1.
        select_norm_cfg (dict, optional): Normalisation inside FSM. Defaults to None.
        offset_norm_cfg (dict, optional): Normalisation inside FAM, before the offsets. Defaults to None.
        upsample_cfg (dict): As MMDetection's ``FPN``. Defaults to ``dict(mode='bilinear', align_corners=False)``.
        **kwargs: As MMDetection's ``FPN``; ``norm_cfg`` and ``act_cfg`` apply to the convolution of an FSM, too.

    Raises:
        ValueError: If a level does not exist, groups do not divide ``out_channels``, or an argument of FPN is wrong.

    Example:
        >>> import torch
        >>> neck = FaPN(in_channels=[16, 32, 64], out_channels=32, num_outs=3)
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip([16, 32, 64], [32, 16, 8])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(1, 32, 32, 32), (1, 32, 16, 16), (1, 32, 8, 8)]
    """

    def __init__(
        self,
        *args,
        align_levels: Sequence[int] | None = None,
        select_levels: Sequence[int] | None = None,
        deform_groups: int = 8,
        groups: int = 1,
        select_norm_cfg: dict | None = None,
        offset_norm_cfg: dict | None = None,
        upsample_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        if upsample_cfg is None:
            upsample_cfg = dict(mode='bilinear', align_corners=False)
        super().__init__(*args, upsample_cfg=upsample_cfg, **kwargs)
        align_levels = self.fusions if align_levels is None else align_levels
        select_levels = self.fusions if select_levels is None else select_levels
        self._check_fusions('align_levels', align_levels)
        for level in sorted(set(select_levels)):
            if level not in self.levels:
                raise ValueError(
                    f'select_levels={list(select_levels)} names level {level}, but this FPN has the levels '
                    f'{self.levels} (in_channels={self.in_channels}, start_level={self.start_level})'
                )
            place = level - self.start_level
            self.lateral_convs[place] = FeatureSelection(
                self.in_channels[level], self.lateral_convs[place], select_norm_cfg
            )
        self.align = ModuleDict(  # MMEngine's: it passes init_weights on
            {
                str(level): FeatureAlignment(self.out_channels, deform_groups, groups, offset_norm_cfg)
                for level in sorted(set(align_levels))
            }
        )

    def _fuse(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        high = self._upsample(high, low)
        if str(level) in self.align:
            high = self.align[str(level)](low, high)
        return low + high
