"""RT-DETR's hybrid encoder with snakes on the projected levels and MOHFE in AIFI's place.

Paper: "HMPE: HeatMap Embedding for Efficient Transformer-Based Small Object Detection" (Zeng et al., 2025), fig. 2.

    C3, C4, C5 -- 1x1 -- snake bottleneck --+-- heatmap head --+
                                            |                  v
                                            +--------------- MOHFE -- fusion down and up --> N3, N4, N5

The paper does not say where the snakes stand; "embedded into the network through HMPE" puts them before the heatmaps.
"""

from collections.abc import Sequence

from mmengine.model import ModuleList
from torch import Tensor

from mmscale.options import check_options
from mmscale.registry import MODELS
from mmscale.rtdetr import HybridEncoder

from .heatmap_head import Heatmaps
from .mohfe import MOHFE
from .snake_conv import SnakeBottleneck

__all__ = ['HMPEEncoder']


@MODELS.register_module()
class HMPEEncoder(HybridEncoder):
    """RT-DETR's hybrid encoder, and what HMPE puts into it; without both it is that one.

    Args:
        *args: As ``mmscale.HybridEncoder``.
        conv (dict, optional): A snake bottleneck on every projected level, see
            :class:`~mmscale.hmpe.SnakeBottleneck`. Defaults to None, without.
        conv_width (int, optional): Channels that it works on. Defaults to None, C / 4.
        mohfe (dict, optional): Options of :class:`~mmscale.hmpe.MOHFE`, which takes AIFI's place and needs the
            heatmaps of ``mmscale.HMPE``. Defaults to None: AIFI stays.
        **kwargs: As ``mmscale.HybridEncoder``.

    Raises:
        ValueError: As ``mmscale.HybridEncoder``; also if an option is unknown, ``conv_width`` has no ``conv``, or both
            ``aifi`` and ``mohfe`` have options.

    Example:
        >>> import torch
        >>> neck = HMPEEncoder([8, 16], out_channels=16, conv=dict(type='mmscale.LSConv'), aifi=dict(num_heads=2))
        >>> [tuple(out.shape) for out in neck([torch.rand(2, 8, 6, 6), torch.rand(2, 16, 3, 3)])]
        [(2, 16, 6, 6), (2, 16, 3, 3)]
    """

    def __init__(
        self, *args, conv: dict | None = None, conv_width: int | None = None, mohfe: dict | None = None, **kwargs
    ) -> None:
        check_options('HMPEEncoder', HybridEncoder, kwargs)
        if conv_width is not None and conv is None:
            raise ValueError(f'conv_width={conv_width} has no conv: set conv, or leave it out')
        if mohfe is not None:
            if kwargs.get('aifi'):
                raise ValueError(f'aifi={kwargs["aifi"]} has no place beside mohfe={mohfe}: set aifi=None')
            kwargs['aifi'] = None
        super().__init__(*args, **kwargs)
        self.snakes = self.mohfe = None
        cfg = {name: kwargs.get(name) for name in ('norm_cfg', 'act_cfg')}
        if conv is not None:
            self.snakes = ModuleList(
                [SnakeBottleneck(self.out_channels, conv, conv_width, **cfg) for _ in self.in_channels]
            )
        if mohfe is not None:
            check_options('mohfe', MOHFE, mohfe, reserved=('channels',))
            if 'channels' in mohfe:
                raise ValueError(f'mohfe.channels={mohfe["channels"]} cannot be set: it is out_channels of the encoder')
            self.mohfe = MOHFE(self.out_channels, **mohfe)

    def encode(self, maps: Sequence[Tensor], heat: Heatmaps | None = None) -> tuple[Tensor, ...]:
        """The second half of :meth:`forward`, with MOHFE where there is one.

        Args:
            maps (Sequence[Tensor]): As :meth:`project` returns them.
            heat (Heatmaps, optional): Of the same levels; MOHFE needs it.

        Returns:
            tuple[Tensor]: One map ``(B, C, H_i, W_i)`` per level, finest first.

        Raises:
            ValueError: If MOHFE gets no heatmaps.
        """
        if self.mohfe is not None:
            if heat is None:
                raise ValueError('MOHFE needs heatmaps: give mmscale.HMPE, the detector, its heatmap_head')
            maps = self.mohfe(maps, heat)
        return super().encode(maps)

    def _project(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        maps = super()._project(inputs)
        if self.snakes is None:
            return maps
        return [snake(x) for snake, x in zip(self.snakes, maps, strict=True)]
