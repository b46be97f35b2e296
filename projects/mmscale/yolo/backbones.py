"""The backbones of YOLOv10 and YOLOv12 in MMYOLO's form.

Papers: "YOLOv10: Real-Time End-to-End Object Detection" (Wang et al., NeurIPS 2024), section 3.2 and table 13 of its
appendix; "YOLOv12: Attention-Centric Real-Time Object Detectors" (Tian, Ye and Doermann, NeurIPS 2025), section 3. The
scales follow the released models' files.

Both have a stem and four stages of the strides 4 to 32; widths are multiples of ``widen_factor``, numbers of blocks of
``deepen_factor``, as everywhere in MMYOLO.
"""

from collections.abc import Sequence

from torch import nn

from mmscale.layers import init_as_torch
from mmscale.options import are_whole_numbers, check_options
from mmscale.registry import MODELS

from .api import BaseBackbone, make_divisible, make_round
from .attention import PSA, A2C2f
from .blocks import ACT, NORM, SPPF, C2f, C2fCIB, C3k2, SCDown, conv

__all__ = ['YOLOv10Backbone', 'YOLOv12Backbone']


class _YOLOBackbone(BaseBackbone):
    """What both have in common."""

    WIDTHS = (64, 128, 256, 512)

    def __init__(
        self,
        last_stage_out_channels: int = 1024,
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        input_channels: int = 3,
        out_indices: Sequence[int] = (2, 3, 4),
        frozen_stages: int = -1,
        plugins: list[dict] | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        norm_eval: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        if not are_whole_numbers(out_indices, least=0) or max(out_indices, default=5) > 4:
            raise ValueError(f'out_indices={out_indices!r} of {type(self).__name__} should be numbers from 0 to 4')
        widths = [*self.WIDTHS, last_stage_out_channels]
        super().__init__(
            [[*pair] for pair in zip(widths, widths[1:], strict=False)],  # MMYOLO's plugins read the second
            deepen_factor=deepen_factor,
            widen_factor=widen_factor,
            input_channels=input_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            plugins=plugins,
            norm_cfg=norm_cfg or NORM,
            act_cfg=act_cfg or ACT,
            norm_eval=norm_eval,
            init_cfg=init_cfg,
        )

    @property
    def layer_cfg(self) -> dict:
        """Normalisation and activation, for the blocks."""
        return dict(norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)

    def width(self, channels: int) -> int:
        """A layer's width at this scale."""
        return make_divisible(channels, self.widen_factor)

    def depth(self, blocks: int) -> int:
        """A stage's number of blocks at this scale."""
        return make_round(blocks, self.deepen_factor)

    def stage_widths(self, stage: int) -> tuple[int, int]:
        """Channels that come into stage 0 to 3, and that leave it."""
        before, after = self.arch_setting[stage]
        return self.width(before), self.width(after)

    def build_stem_layer(self) -> nn.Module:
        """The stem, stride 2."""
        return conv(self.input_channels, self.width(self.WIDTHS[0]), 3, stride=2, **self.layer_cfg)

    def train(self, mode: bool = True) -> '_YOLOBackbone':
        """As MMYOLO's, which does not return itself: ``module.eval()(image)`` would fail."""
        super().train(mode)
        return self

    def init_weights(self) -> None:
        """PyTorch's own start for every layer (as in MMYOLO), then the blocks' own."""
        if self.init_cfg is None:
            init_as_torch(self)
        else:
            super().init_weights()


@MODELS.register_module()
class YOLOv10Backbone(_YOLOBackbone):
    """YOLOv10's backbone.

        image -- conv /2 -- conv /4, C2f -- conv /8, C2f --> P3 -- SCDown /16, C2f --> P4 -- SCDown /32, C2f or C2fCIB,
        SPPF, PSA --> P5

    Args:
        last_stage_out_channels (int): Channels of the last stage before ``widen_factor``: 1024 for n and s, 768 for m,
            512 for b, l and x. Defaults to 1024.
        deepen_factor (float): n 1/3, s 1/3, m 2/3, b 2/3, l 1, x 1. Defaults to 1.0.
        widen_factor (float): n 0.25, s 0.5, m 0.75, b 1, l 1, x 1.25. Defaults to 1.0.
        cib_stages (Sequence[int]): The stages, 1 to 4, whose blocks are CIB: none for n, 4 for s, m, b and l, 3 and 4
            for x. Defaults to (4,).
        large_kernel (bool): Whether these have large kernels, as in s. Defaults to False.
        input_channels (int): Channels of the image. Defaults to 3.
        out_indices (Sequence[int]): Which maps are returned, 0 for the stem. Defaults to (2, 3, 4).
        frozen_stages (int): As MMYOLO's. Defaults to -1.
        plugins (list[dict], optional): As MMYOLO's. Defaults to None.
        norm_cfg (dict, optional): Defaults to None: batch norm with momentum 0.03 and epsilon 0.001.
        act_cfg (dict, optional): Defaults to None: SiLU.
        norm_eval (bool): Whether batch norms keep their statistics. Defaults to False.
        init_cfg (dict or list[dict], optional): Defaults to None: PyTorch's own start.

    Raises:
        ValueError: If a stage of ``cib_stages`` or ``out_indices`` does not exist, or an option is unknown.
    """

    BLOCKS = (3, 6, 6, 3)

    def __init__(self, *args, cib_stages: Sequence[int] = (4,), large_kernel: bool = False, **kwargs) -> None:
        check_options(type(self).__name__, type(self), kwargs)
        if not are_whole_numbers(cib_stages, least=None):
            raise ValueError(f'cib_stages={cib_stages!r} of YOLOv10Backbone should be a list of stages, 1 to 4')
        wrong = sorted(set(cib_stages) - {1, 2, 3, 4})
        if wrong:
            raise ValueError(f'cib_stages={list(cib_stages)} names stage {wrong[0]}, but the stages are 1 to 4')
        self.cib_stages = tuple(cib_stages)
        self.large_kernel = large_kernel
        super().__init__(*args, **kwargs)

    def build_stage_layer(self, stage_idx: int, setting: list[int]) -> list[nn.Module]:
        """One stage's layers; ``setting`` has the widths before and behind it, without ``widen_factor``."""
        in_channels, out_channels = self.stage_widths(stage_idx)
        cfg, depth = self.layer_cfg, self.depth(self.BLOCKS[stage_idx])
        if stage_idx < 2:
            layers = [conv(in_channels, out_channels, 3, stride=2, **cfg)]
        else:
            layers = [SCDown(in_channels, out_channels, **cfg)]
        if stage_idx + 1 in self.cib_stages:
            layers.append(C2fCIB(out_channels, out_channels, depth, large_kernel=self.large_kernel, **cfg))
        else:
            layers.append(C2f(out_channels, out_channels, depth, shortcut=True, **cfg))
        if stage_idx == 3:
            layers += [SPPF(out_channels, out_channels, **cfg), PSA(out_channels, **cfg)]
        return layers


@MODELS.register_module()
class YOLOv12Backbone(_YOLOBackbone):
    """YOLOv12's backbone: early stages of convolutions, late ones of area attention, no pooling at the end.

        image -- conv /2 -- conv /4, C3k2 -- conv /8, C3k2 --> P3 -- conv /16, A2C2f of four areas --> P4 -- conv /32,
        A2C2f of one --> P5

    Args:
        last_stage_out_channels (int): Channels of the last stage before ``widen_factor``: 1024 for n and s, 512 for m,
            l and x. Defaults to 1024.
        deepen_factor (float): n, s and m 0.5, l and x 1. Defaults to 1.0.
        widen_factor (float): n 0.25, s 0.5, m and l 1, x 1.5. Defaults to 1.0.
        c3k (bool): Whether the early stages' blocks are C3k, as in m, l and x. Defaults to False.
        residual (bool): Whether the late stages add their input, as in l and x. Defaults to False.
        mlp_ratio (float): Of the attention blocks' MLP: 2, in l and x 1.5 (1.2 in the first release). Defaults to 2.0.
        areas (Sequence[int]): A of the two late stages. Defaults to (4, 1).
        position_kernel (int): As :class:`~mmscale.yolo.attention.AreaAttention`'s. Defaults to 5; the first release has
            7.
        stride_groups (Sequence[int]): Groups of the convolutions of stride 4 and 8. Defaults to (2, 4), those of the
            models of which FINE's table 1 has the cost; (1, 1) in the first release.
        input_channels (int): Channels of the image. Defaults to 3.
        out_indices (Sequence[int]): Which maps are returned, 0 for the stem. Defaults to (2, 3, 4).
        frozen_stages (int): As MMYOLO's. Defaults to -1.
        plugins (list[dict], optional): As MMYOLO's. Defaults to None.
        norm_cfg (dict, optional): Defaults to None: batch norm with momentum 0.03 and epsilon 0.001.
        act_cfg (dict, optional): Defaults to None: SiLU.
        norm_eval (bool): Whether batch norms keep their statistics. Defaults to False.
        init_cfg (dict or list[dict], optional): Defaults to None: PyTorch's own start, and the attention blocks' own.

    Raises:
        ValueError: If ``areas`` or ``stride_groups`` are not two positive numbers, a stage of ``out_indices`` does not
            exist, or an option is unknown.
    """

    BLOCKS = (2, 2, 4, 4)
    STRIDE_WIDTHS = (128, 256, 512, None)  # after the convolution of stride 2; None: the last stage's
    WIDTHS = (64, 256, 512, 512)

    def __init__(
        self,
        *args,
        c3k: bool = False,
        residual: bool = False,
        mlp_ratio: float = 2.0,
        areas: Sequence[int] = (4, 1),
        position_kernel: int = 5,
        stride_groups: Sequence[int] = (2, 4),
        **kwargs,
    ) -> None:
        check_options(type(self).__name__, type(self), kwargs)
        for name, value in (('areas', areas), ('stride_groups', stride_groups)):
            if not are_whole_numbers(value, count=2):
                raise ValueError(f'{name}={value!r} of YOLOv12Backbone should be two positive numbers')
        self.c3k = c3k
        self.attention_cfg = dict(residual=residual, mlp_ratio=mlp_ratio, position_kernel=position_kernel)
        self.areas = tuple(areas)
        self.stride_groups = tuple(stride_groups)
        super().__init__(*args, **kwargs)

    def build_stage_layer(self, stage_idx: int, setting: list[int]) -> list[nn.Module]:
        """One stage's layers; ``setting`` has the widths before and behind it, without ``widen_factor``."""
        in_channels, out_channels = self.stage_widths(stage_idx)
        cfg, depth = self.layer_cfg, self.depth(self.BLOCKS[stage_idx])
        width = self.width(self.STRIDE_WIDTHS[stage_idx] or setting[1])
        groups = (*self.stride_groups, 1, 1)[stage_idx]
        layers = [conv(in_channels, width, 3, stride=2, groups=groups, **cfg)]
        if stage_idx < 2:
            layers.append(C3k2(width, out_channels, depth, c3k=self.c3k, expansion=0.25, **cfg))
        else:
            areas = self.areas[stage_idx - 2]
            layers.append(A2C2f(width, out_channels, depth, areas, **self.attention_cfg, **cfg))
        return layers
