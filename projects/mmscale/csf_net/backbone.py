"""CSF-Net's two backbones on one image.

Paper: "CSF-Net: Cross-Stage Fusion Network with Dual Backbone for Small Object Detection" (Wang et al.), section 3,
fig. 1. Its network for n, one class, 640x640: 6.87 M weights and 18.25 GFLOPs (section 4.3).

             shallow: YOLOv8's backbone                            fusion: a deeper one on the same image

    image -- stem -- stage 1 -- stage 2 --> S3                image -- stem -- stage 1 -- conv /8
                                   |        |                                               |
                                   |     CSwitch -- 64 ------------------------------> DFuse (3 branches) -- C2f --> F3
                                   |            `-- 128, 256 to the DFuse of /16, /32       |
                                stage 3 --> S4                                           conv /16
                                   |        |                                               |
                                   |     CSwitch -- 128 -----------------------------> DFuse (3 branches) -- C2f --> F4
                                   |            `-- 64, 256                                 |
                                stage 4 --> S5                                           conv /32
                                            |                                               |
                                         CSwitch -- 256 -----------------------------> DFuse (3 branches) -- C2f,
                                                `-- 64, 128                              SPPF --> F5
    out: DFuse(Si, Fi) for every level

What the paper says: the shallow backbone is YOLOv8's; CSwitch on its P3, P4 and P5 with the stages' widths as partition
list ([64, 128, 256] for n); DFuse before each stage of the fusion backbone. It draws the fusion backbone, but gives no
numbers of it. Ours:

- Every CSwitch deals out to all three stages: the text has one partition list, and its example makes 448 channels of
  one map.
- CSwitch's kernel is 3x3 and the fusion backbone's stages have 1, 2, 3 and 3 blocks. The cost decided both: with them,
  and two blocks in CReToNeXt, the network has 6.85 M weights and 18.1 GFLOPs. With 1x1 kernels and YOLOv8's blocks it
  has 4.5 M and 12.2.
- The maps of both backbones are fused once more where they leave: table 3's network without CSwitch "relies solely on
  late fusion", so there is one. Equal widths make it free of weights.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers import init_as_torch
from mmscale.options import are_whole_numbers, check_options, part_options
from mmscale.registry import MODELS
from mmscale.yolo.api import YOLOv8CSPDarknet, make_divisible
from mmscale.yolo.blocks import ACT, NORM, conv

from .c_switch import CSwitch
from .d_fuse import DFuse, nearest_to

__all__ = ['CSFBackbone', 'ConcatFuse']

STAGES = 3  # that are fused: strides 8, 16 and 32
SHARED = ('last_stage_out_channels', 'widen_factor', 'norm_cfg', 'act_cfg')  # options of both backbones
FIXED = ('arch', 'deepen_factor', 'input_channels', 'out_indices')  # of the shallow one, not in ``shallow``


class ConcatFuse(nn.Module):
    """What stands for DFuse in table 3's row without it: resized maps, concatenated, a 1x1 to the reference's width.

    Args:
        in_channels (Sequence[int]): Width of every map; the last one is the reference.
        **layers: ``norm_cfg`` and ``act_cfg`` of the 1x1 convolution.
    """

    def __init__(self, in_channels: Sequence[int], **layers) -> None:
        super().__init__()
        self.mix = conv(sum(in_channels), in_channels[-1], **layers)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """``(B, Ci, Hi, Wi)`` each, the reference ``(B, C, H, W)`` last, to ``(B, C, H, W)``."""
        return self.mix(torch.cat([nearest_to(x, maps[-1]) for x in maps], dim=1))


class FusionDarknet(YOLOv8CSPDarknet):
    """YOLOv8's backbone with numbers of blocks of its own, that takes something in before each of its last stages.

    Args:
        blocks (Sequence[int]): Blocks of the four stages, not scaled by a ``deepen_factor``.
        **kwargs: As MMYOLO's ``YOLOv8CSPDarknet``.
    """

    def __init__(self, blocks: Sequence[int], **kwargs) -> None:
        self.arch_settings = deepcopy(YOLOv8CSPDarknet.arch_settings)
        for stage, number in zip(self.arch_settings['P5'], blocks, strict=True):
            stage[2] = number
        super().__init__(**kwargs)

    def forward(self, image: Tensor, fuse) -> list[Tensor]:
        """Maps of the strides 8, 16 and 32.

        Args:
            image (Tensor): ``(B, 3, H, W)``.
            fuse (Callable): Gets a stage's place, 0 to 2, and its map after the convolution of stride 2; what it
                returns goes through the rest of the stage.
        """
        x = self.stage1(self.stem(image))
        outs = []
        for place, stage in enumerate((self.stage2, self.stage3, self.stage4)):
            x = fuse(place, stage[0](x))
            for layer in stage[1:]:
                x = layer(x)
            outs.append(x)
        return outs


@MODELS.register_module()
class CSFBackbone(BaseModule):
    """A shallow and a fusion backbone, joined by CSwitch and DFuse.

    Args:
        last_stage_out_channels (int): Channels of the last stage before ``widen_factor``. Defaults to 1024.
        deepen_factor (float): Of the shallow backbone, as YOLOv8's. Defaults to 0.33.
        widen_factor (float): Of both, as YOLOv8's. Defaults to 0.25.
        fusion_blocks (Sequence[int]): Blocks of the fusion backbone's four stages, as they are. Defaults to
            (1, 2, 3, 3).
        switch_kernel (int): Side of CSwitch's kernel. Defaults to 3.
        quotas (Sequence[int], optional): CSwitch's partition list: channels for the stages of stride 8, 16 and 32.
            Defaults to None: the stages' widths at this scale; DFuse projects others.
        switch (bool): Whether there are CSwitches; without them the backbones meet where they leave (table 3's
            -CSwitch). Defaults to True.
        fusion (str): What joins maps: ``'dfuse'``, or ``'concat'``, :class:`ConcatFuse` (table 3's -DFuse). Defaults to
            ``'dfuse'``.
        norm_cfg (dict, optional): Defaults to None: batch norm with momentum 0.03 and epsilon 0.001.
        act_cfg (dict, optional): Defaults to None: SiLU.
        shallow (dict, optional): More options of the shallow backbone, as MMYOLO's ``YOLOv8CSPDarknet``: ``plugins``,
            ``frozen_stages``, ``norm_eval`` and ``init_cfg``, by which the paper starts it from YOLOv8-n's weights.
            Defaults to None.
        init_cfg (dict or list[dict], optional): Defaults to None: PyTorch's own start.
        **kwargs: None; another name is refused with those that there are.

    Raises:
        ValueError: If there are not four numbers of blocks or three quotas, ``fusion`` is another word, or an option is
            unknown.

    Example:
        >>> import torch
        >>> [tuple(out.shape) for out in CSFBackbone()(torch.rand(1, 3, 64, 64))]
        [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    """

    def __init__(
        self,
        last_stage_out_channels: int = 1024,
        deepen_factor: float = 0.33,
        widen_factor: float = 0.25,
        fusion_blocks: Sequence[int] = (1, 2, 3, 3),
        switch_kernel: int = 3,
        quotas: Sequence[int] | None = None,
        switch: bool = True,
        fusion: str = 'dfuse',
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        shallow: dict | None = None,
        init_cfg: dict | list | None = None,
        **kwargs,
    ) -> None:
        check_options('CSFBackbone', CSFBackbone, kwargs)
        super().__init__(init_cfg)
        widths = [make_divisible(width, widen_factor) for width in (256, 512, last_stage_out_channels)]
        quotas = widths if quotas is None else quotas
        if not are_whole_numbers(fusion_blocks, count=4):
            raise ValueError(f'fusion_blocks={fusion_blocks!r} of CSFBackbone should be four positive numbers')
        if not are_whole_numbers(quotas, count=STAGES):
            raise ValueError(
                f'quotas={quotas!r} of CSFBackbone should be three positive numbers: for the strides 8, 16 and 32'
            )
        if fusion not in ('dfuse', 'concat'):
            raise ValueError(f"fusion={fusion!r} of CSFBackbone should be 'dfuse' or 'concat'")
        layers = dict(norm_cfg=norm_cfg or NORM, act_cfg=act_cfg or ACT)
        common = dict(last_stage_out_channels=last_stage_out_channels, widen_factor=widen_factor, **layers)
        shallow = part_options('shallow', YOLOv8CSPDarknet, shallow, derived=SHARED + FIXED, owner='CSFBackbone')
        self.shallow = YOLOv8CSPDarknet(deepen_factor=deepen_factor, **common, **shallow)
        self.deep = FusionDarknet(fusion_blocks, **common)
        self.switches = nn.ModuleList(CSwitch(width, quotas, switch_kernel) for width in widths if switch)

        def build_fuse(in_channels: list[int]) -> nn.Module:
            return DFuse(in_channels) if fusion == 'dfuse' else ConcatFuse(in_channels, **layers)

        self.early_fuses = nn.ModuleList(
            build_fuse([quota] * STAGES + [width]) for quota, width in zip(quotas, widths, strict=True) if switch
        )
        self.late_fuses = nn.ModuleList(build_fuse([width, width]) for width in widths)

    def init_weights(self) -> None:
        """The backbones' start, and PyTorch's own of what joins them."""
        super().init_weights()
        for part in (self.switches, self.early_fuses, self.late_fuses):
            if self.init_cfg is None:
                init_as_torch(part)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps of the strides 8, 16 and 32.

        Args:
            image (Tensor): ``(B, 3, H, W)``.

        Returns:
            tuple[Tensor]: ``(B, Ci, ceil(H / si), ceil(W / si))`` for the strides si.
        """
        shallow = self.shallow(image)
        dealt = [switch(x) for switch, x in zip(self.switches, shallow, strict=False)]  # by source, then by receiver

        def fuse(place: int, x: Tensor) -> Tensor:
            if not dealt:
                return x
            return self.early_fuses[place]([*(branches[place] for branches in dealt), x])

        deep = self.deep(image, fuse)
        return tuple(late([x, y]) for late, x, y in zip(self.late_fuses, shallow, deep, strict=True))
