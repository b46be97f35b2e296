"""The four methods in RT-DETR's hybrid encoder, as FINE's table 2 has them there (right half).

    C_i -- 1x1 -------------- (+ AIFI on the top) ----- low --+-- cat -- CSP -- 1x1 --> the next level's high
     |      |                                                 ^
     |      FaPN: FSM before it                               SNI: a quarter of it
     +-- MGC: context added behind it            up(high) ----FaPN: FAM
                                                 AdaFPN: AdaUp and AFF in place of upsampling, cat and CSP

The methods themselves are those of the FPN forms (:mod:`.sni`, :mod:`.fapn`, :mod:`.adafpn`, :mod:`.mgc`). Their place
in this encoder is in no paper of theirs; it is that of FINE's authors' repository, which prints the cost of each. Ours:
the input projections stay as the encoder has them, a 1x1 convolution with batch norm (there FaPN's and MGC's have no
norm; 1,536 weights).

AFF's weighted sum takes the place of the CSP block because cost says so: two blocks more (4.05 M) and two CSP blocks
fewer (1.32 M) make the table's 22.9 M.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mmscale.options import check_options
from mmscale.registry import MODELS
from mmscale.rtdetr import HybridEncoder

from .adafpn import AdaptiveBlock
from .fapn import FeatureAlignment, FeatureSelection
from .mgc import MultiLevelGlobalContext

__all__ = ['AdaFPNHybridEncoder', 'FaPNHybridEncoder', 'MGCHybridEncoder', 'SNIHybridEncoder']


@MODELS.register_module()
class SNIHybridEncoder(HybridEncoder):
    """The hybrid encoder with soft nearest interpolation: ``cat(alpha * nearest(high), low)``.

    Args:
        *args: As :class:`~mmscale.rtdetr.HybridEncoder`.
        alpha (float): Weight of the upsampled level. Defaults to 0.25, the paper's ``1 / f ** 2`` for f = 2.
        **kwargs: As :class:`~mmscale.rtdetr.HybridEncoder`.

    Raises:
        ValueError: If an option is unknown.
    """

    def __init__(self, *args, alpha: float = 0.25, **kwargs) -> None:
        check_options('SNIHybridEncoder', SNIHybridEncoder, kwargs)
        super().__init__(*args, **kwargs)
        self.alpha = alpha

    def _upsample(self, high: Tensor, low: Tensor) -> Tensor:
        return self.alpha * super()._upsample(high, low)


@MODELS.register_module()
class FaPNHybridEncoder(HybridEncoder):
    """The hybrid encoder with FSM before its input projections and FAM before its top-down fusions.

    FINE's table 2 counts it with ``select_levels=[0, 1, 2]``, ``groups=8``, ``upsample_cfg=dict(mode='nearest')``,
    ``select_norm_cfg=dict(type='GN', num_groups=32)`` and ``offset_norm_cfg=dict(type='BN')``, without DCNv2's own
    operations.

    Args:
        *args: As :class:`~mmscale.rtdetr.HybridEncoder`.
        align_levels (Sequence[int], optional): The low levels whose fusion has a FAM. Defaults to None, all of them.
        select_levels (Sequence[int], optional): The levels with an FSM. Defaults to None, all but the top one.
        deform_groups (int): Groups of channels that share their offsets. Defaults to 8.
        groups (int): Groups of DCNv2's convolution. Defaults to 1.
        select_norm_cfg (dict, optional): Normalisation inside FSM. Defaults to None.
        offset_norm_cfg (dict, optional): Normalisation inside FAM, before the offsets. Defaults to None.
        upsample_cfg (dict): Options of ``F.interpolate`` for the high level. Defaults to
            ``dict(mode='bilinear', align_corners=False)``.
        **kwargs: As :class:`~mmscale.rtdetr.HybridEncoder`.

    Raises:
        ValueError: If a level does not exist, groups do not divide ``out_channels``, or an option is unknown.
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
        check_options('FaPNHybridEncoder', FaPNHybridEncoder, kwargs)
        super().__init__(*args, **kwargs)
        self.upsample_cfg = upsample_cfg or dict(mode='bilinear', align_corners=False)
        align_levels = self.fusions if align_levels is None else align_levels
        select_levels = self.fusions if select_levels is None else select_levels
        self._check_fusions('align_levels', align_levels)
        for level in sorted(set(select_levels)):
            if level not in range(self.num_outs):
                raise ValueError(
                    f'select_levels={list(select_levels)} names level {level}, but this encoder has the levels '
                    f'{list(range(self.num_outs))} (in_channels={self.in_channels})'
                )
            self.input_proj[level] = FeatureSelection(self.in_channels[level], self.input_proj[level], select_norm_cfg)
        self.align = ModuleDict(  # MMEngine's: it passes init_weights on
            {
                str(level): FeatureAlignment(self.out_channels, deform_groups, groups, offset_norm_cfg)
                for level in sorted(set(align_levels))
            }
        )

    def _upsample(self, high: Tensor, low: Tensor) -> Tensor:
        return F.interpolate(high, size=low.shape[-2:], **self.upsample_cfg)

    def _join(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        high = self._upsample(high, low)
        if str(level) in self.align:
            high = self.align[str(level)](low, high)
        return torch.cat((high, low), dim=1)


@MODELS.register_module()
class AdaFPNHybridEncoder(HybridEncoder):
    """The hybrid encoder with AdaUp and AFF for its top-down fusions.

    Args:
        *args: As :class:`~mmscale.rtdetr.HybridEncoder`.
        adapt_levels (Sequence[int], optional): The low levels that are fused adaptively; the others keep the encoder's
            fusion. Defaults to None, the two below the top.
        points (int): Sampling points of a pixel. Defaults to 4.
        radius (float): Of the ring around a pixel's centre on which its points start, in pixels of the low level; 0 is
            the start of FINE's authors. Defaults to 0.5.
        reduction (int): Reduction of the channels before AFF's weights. Defaults to 16.
        **kwargs: As :class:`~mmscale.rtdetr.HybridEncoder`.

    Raises:
        ValueError: If a level does not exist, an option is out of its range or unknown.
    """

    def __init__(
        self,
        *args,
        adapt_levels: Sequence[int] | None = None,
        points: int = 4,
        radius: float = 0.5,
        reduction: int = 16,
        **kwargs,
    ) -> None:
        check_options('AdaFPNHybridEncoder', AdaFPNHybridEncoder, kwargs)
        super().__init__(*args, **kwargs)
        adapt_levels = self.fusions[-2:] if adapt_levels is None else adapt_levels
        self._check_fusions('adapt_levels', adapt_levels)
        self.adapt = ModuleDict(
            {
                str(level): AdaptiveBlock(self.out_channels, points, radius, reduction)
                for level in sorted(set(adapt_levels))
            }
        )
        for level in adapt_levels:
            self.top_down_blocks[self._step(level)] = nn.Identity()  # no weight without a use

    def _fuse(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        if str(level) in self.adapt:
            return self.adapt[str(level)](low, high)
        return super()._fuse(level, low, high)


@MODELS.register_module()
class MGCHybridEncoder(HybridEncoder):
    """The hybrid encoder whose projected maps get the multi-level global context of A^2-FPN added, before AIFI.

    Args:
        *args: As :class:`~mmscale.rtdetr.HybridEncoder`.
        contexts (Sequence[int], optional): As :class:`~mmscale.rivals.MGCFPN`. Defaults to None: 256, 192, 128, 64, and
            64 for any further level.
        reasoning (str): ``'graph'`` or ``'pointwise'``, as :class:`~mmscale.rivals.MGCFPN`. Defaults to ``'graph'``.
        read (str): ``'own'`` or ``'all'``, as :class:`~mmscale.rivals.MGCFPN`. Defaults to ``'own'``.
        **kwargs: As :class:`~mmscale.rtdetr.HybridEncoder`.

    Raises:
        ValueError: If an option is unknown or does not fit the levels.
    """

    def __init__(
        self,
        *args,
        contexts: Sequence[int] | None = None,
        reasoning: str = 'graph',
        read: str = 'own',
        **kwargs,
    ) -> None:
        check_options('MGCHybridEncoder', MGCHybridEncoder, kwargs)
        super().__init__(*args, **kwargs)
        self.mgc = MultiLevelGlobalContext(self.in_channels, self.out_channels, contexts, reasoning, read)

    def _project(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [x + context for x, context in zip(super()._project(inputs), self.mgc(inputs), strict=True)]
