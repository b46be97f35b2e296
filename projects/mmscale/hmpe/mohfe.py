"""Multi-scale object-box heatmap fusion encoder: attention over the hot positions of all levels.

Paper: "HMPE: HeatMap Embedding for Efficient Transformer-Based Small Object Detection" (Zeng et al., 2025), section
3.2.1, eqs. 5 to 7, fig. 3.

    level 1 --+                              +-- * H_class -- W_c --+
    level 2 --+-- hottest positions -- x --+-+                     cat -- Q, K, V -- attention --+-- feed-forward --+
    level 3 --+                            | +-- * H_bbox --- W_b --+           ^                ^                  |
       ^                                   |                        sines * mask (Q, K)          |                  |
       |                                   +-----------------------------------------------------+                  |
       +-------------------------------------- back in their places ------------------------------------------------+

It takes AIFI's place in RT-DETR's encoder. What the paper leaves open:

- Eq. 5 projects the heatmaps, one channel each; projecting these alone would throw the image away. Here the features
  times the maps are projected, each map with weights of its own and to half of the channels.
- All levels are one sequence ("multi-scale fusion"). At 640x640 these are 8,400 positions, whose attention would cost
  more than the rest of the detector; so, ours, each level sends its hottest ``max_tokens`` positions by H_mixed, the
  others stay as they are.
- Positions are in cells of the coarsest level, so that one place has one code in all levels; in the coarsest it is
  AIFI's.
- No norm stands before the attention: it would undo the heat. One stands before the feed-forward part, and none behind
  the sums, so that positions left alone and positions attended to stay comparable.

Shape shorthand in this module:
    B: batch, C: channels, N: positions of all levels that attend, H, W: size of a level
"""

from collections.abc import Sequence

import torch
from mmcv.cnn import build_activation_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers import init_as_torch
from mmscale.registry import MODELS
from mmscale.rtdetr.hybrid_encoder import sine_position_embedding

from .heatmap_head import Heatmaps

__all__ = ['MOHFE', 'masked_position_embedding']


def masked_position_embedding(position: Tensor, mask: Tensor) -> Tensor:
    """Eq. 7: the code where the mask is 1, zero elsewhere.

    Args:
        position (Tensor): ``(1, N, C)`` or ``(B, N, C)``.
        mask (Tensor): ``(B, N)``, boolean.

    Returns:
        Tensor: ``(B, N, C)``.
    """
    return position * mask[..., None].to(position.dtype)


@MODELS.register_module()
class MOHFE(BaseModule):
    """Multi-scale object-box heatmap fusion encoder; every map keeps its shape.

    Args:
        channels (int): C, a multiple of 4 and of ``num_heads``.
        num_heads (int): Heads of the attention. Defaults to 8.
        feedforward_channels (int): Hidden width of the feed-forward part. Defaults to 1024.
        max_tokens (int, optional): Positions of a level that attend, the hottest; None is all. Defaults to 300, as
            many as the detector has queries.
        dropout (float): Of the attention's weights, the hidden layer and what each part adds. Defaults to 0.0.
        act_cfg (dict, optional): Activation of the feed-forward part. Defaults to None, ``dict(type='GELU')``.
        temperature (float): Of the sine positional encoding. Defaults to 10000, eq. 7's.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None, PyTorch's own.

    Raises:
        ValueError: If ``channels`` is no multiple of 4 or of ``num_heads``, or ``max_tokens`` is below 1.

    Example:
        >>> maps = [torch.rand(1, 16, 6, 6), torch.rand(1, 16, 3, 3)]
        >>> heat = [torch.rand(1, 1, 6, 6), torch.rand(1, 1, 3, 3)]
        >>> heat = Heatmaps(heat, heat, heat, [x > 0.5 for x in heat])
        >>> [tuple(x.shape) for x in MOHFE(16, num_heads=2, max_tokens=8)(maps, heat)]
        [(1, 16, 6, 6), (1, 16, 3, 3)]
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        feedforward_channels: int = 1024,
        max_tokens: int | None = 300,
        dropout: float = 0.0,
        act_cfg: dict | None = None,
        temperature: float = 10000.0,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if channels % 4 or channels % num_heads:
            raise ValueError(f'channels={channels} of MOHFE must be a multiple of 4 and of num_heads={num_heads}')
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f'max_tokens={max_tokens} of MOHFE must be at least 1, or None')
        self.channels = channels
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.class_proj = nn.Linear(channels, channels // 2)
        self.box_proj = nn.Linear(channels, channels // 2)
        self.self_attn = nn.MultiheadAttention(channels, num_heads, dropout, batch_first=True)
        self.norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            nn.Linear(channels, feedforward_channels),
            build_activation_layer(act_cfg or dict(type='GELU')),
            nn.Dropout(dropout),
            nn.Linear(feedforward_channels, channels),
        )
        self.dropout = nn.Dropout(dropout)

    def init_weights(self) -> None:
        """PyTorch's own."""
        init_as_torch(self)
        super().init_weights()

    def forward(self, maps: Sequence[Tensor], heat: Heatmaps) -> list[Tensor]:
        """Attend.

        Args:
            maps (Sequence[Tensor]): ``(B, C, H, W)`` per level, finest first.
            heat (Heatmaps): Of the same levels.

        Returns:
            list[Tensor]: ``(B, C, H, W)`` per level.
        """
        rows = [x.flatten(2).transpose(1, 2) for x in maps]  # (B, H * W, C)
        places = [self.hottest(x) for x in heat.mixed]
        tokens, h_class, h_bbox, mask = (
            torch.cat([_take(x, place) for x, place in zip(levels, places, strict=True)], dim=1)
            for levels in (rows, *([x.flatten(1)[..., None] for x in m] for m in (heat.classes, heat.boxes, heat.mask)))
        )
        position = torch.cat(
            [_take(x.to(tokens.dtype), place) for x, place in zip(self.positions(maps), places, strict=True)], dim=1
        )
        tokens = self._encode(tokens, h_class, h_bbox, masked_position_embedding(position, mask[..., 0]))
        outs, counts = [], [place.shape[1] for place in places]
        for x, row, place, new in zip(maps, rows, places, tokens.split(counts, dim=1), strict=True):
            row = row.scatter(1, place[..., None].expand_as(new), new.to(row.dtype))
            outs.append(row.transpose(1, 2).reshape(x.shape))
        return outs

    def _encode(self, tokens: Tensor, h_class: Tensor, h_bbox: Tensor, position: Tensor) -> Tensor:
        """``(B, N, C)`` with heat ``(B, N, 1)`` and masked positions ``(B, N, C)`` to ``(B, N, C)``."""
        heated = torch.cat((self.class_proj(h_class * tokens), self.box_proj(h_bbox * tokens)), dim=-1)
        located = heated + position
        attended, _ = self.self_attn(located, located, heated, need_weights=False)  # eq. 5
        tokens = tokens + self.dropout(attended)
        return tokens + self.dropout(self.feedforward(self.norm(tokens)))

    def hottest(self, mixed: Tensor) -> Tensor:
        """Places of a level's hottest positions, ``(B, N_l)``."""
        heat = mixed.detach().flatten(1)
        return heat.argsort(dim=1, descending=True)[:, : self.max_tokens]  # top-k would put the size into a graph

    def positions(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The code of every position, not masked, ``(B, H * W, C)`` per level."""
        batch, coarsest = maps[0].shape[0], maps[-1].shape[-2:]
        codes = []
        for x in maps:
            scale = tuple(top / side for top, side in zip(coarsest, x.shape[-2:], strict=True))
            code = sine_position_embedding(*x.shape[-2:], self.channels, self.temperature, x.device, scale)
            codes.append(code.expand(batch, -1, -1))
        return codes


def _take(x: Tensor, places: Tensor) -> Tensor:
    """The rows ``(B, N, C)`` of ``(B, S, C)`` that ``places``, ``(B, N)``, names."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
