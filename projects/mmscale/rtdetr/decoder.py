"""RT-DETR's decoder: every layer refines the boxes of the one before.

Paper: "DETRs Beat YOLOs on Real-time Object Detection" (Zhao et al., CVPR 2024), fig. 4 and section 4.4 (any number of
the trained layers serves at inference); the refinement looks forward twice as DINO's ("DINO", Zhang et al., ICLR 2023,
section 3.4): the loss of layer i reaches the boxes of layer i - 1, too.

    boxes_0 --+-- position -- layer 1 -- offsets --+--> boxes_1 --+-- position -- layer 2 -- offsets --+--> boxes_2
              |                                    ^              |                                    ^
              +------------------------------------+              +------------------------------------+

Shape shorthand in this module:
    B: batch, Q: queries, C: channels, S: positions of all levels
"""

from collections.abc import Sequence

import torch.nn.functional as F
from mmdet.models.layers import inverse_sigmoid
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers import init_as_torch

from .deformable_attention import MultiScaleDeformableAttention

__all__ = ['RTDETRDecoder']

FLOAT16_MAX = 65504.0


class RTDETRDecoder(BaseModule):
    """A stack of layers; the detector builds it from its ``decoder`` options and knows the number of levels.

    Args:
        num_levels (int): Levels of the encoder.
        num_layers (int): Layers that are trained; 0 leaves the proposals as they are. Defaults to 6.
        num_eval_layers (int, optional): Layers at inference, from 0 to ``num_layers``. Defaults to None, all of them.
        embed_dims (int): C. Defaults to 256.
        num_heads (int): Heads of both attentions. Defaults to 8.
        num_points (int): Points of a level in the deformable attention. Defaults to 4.
        feedforward_channels (int): Hidden width of the feed-forward part. Defaults to 1024.
        dropout (float): Dropout in every layer. Defaults to 0.0.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None: PyTorch's own, but
            for the position's layers (Xavier uniform) and MMCV's start of the deformable attention.

    Raises:
        ValueError: If ``num_layers`` is negative, ``num_eval_layers`` is not from 0 to ``num_layers``, or
            ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self,
        num_levels: int,
        num_layers: int = 6,
        num_eval_layers: int | None = None,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_points: int = 4,
        feedforward_channels: int = 1024,
        dropout: float = 0.0,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_layers < 0:
            raise ValueError(f'num_layers={num_layers} of the decoder must not be negative')
        if num_eval_layers is not None and not 0 <= num_eval_layers <= num_layers:
            raise ValueError(f'num_eval_layers={num_eval_layers} must be from 0 to num_layers={num_layers}')
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} of the decoder must be a multiple of num_heads={num_heads}')
        self.embed_dims = embed_dims
        self.num_levels = num_levels
        self.num_layers = num_layers
        self.num_eval_layers = num_layers if num_eval_layers is None else num_eval_layers
        self.layers = nn.ModuleList(
            [
                RTDETRDecoderLayer(embed_dims, num_heads, num_levels, num_points, feedforward_channels, dropout)
                for _ in range(num_layers)
            ]
        )
        if self.layers:
            self.query_pos_head = nn.Sequential(
                nn.Linear(4, 2 * embed_dims), nn.ReLU(inplace=True), nn.Linear(2 * embed_dims, embed_dims)
            )

    def init_weights(self) -> None:
        """The official start of every weight; the layers start as copies of one."""
        init_as_torch(self)
        if self.layers:
            first, *others = self.layers
            first.cross_attn.init_weights()
            for layer in others:
                layer.load_state_dict(first.state_dict())
            for linear in (self.query_pos_head[0], self.query_pos_head[2]):
                nn.init.xavier_uniform_(linear.weight)
        super().init_weights()

    def forward(
        self,
        query: Tensor,
        references: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
        reg_branches: nn.ModuleList,
        attn_mask: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Refine.

        Args:
            query (Tensor): ``(B, Q, C)``, the queries' content.
            references (Tensor): ``(B, Q, 4)``, boxes (cx, cy, w, h) over the size of the image, from 0 to 1.
            memory (Tensor): ``(B, S, C)``.
            shapes (Sequence[tuple[int, int]]): Height and width of every level.
            reg_branches (nn.ModuleList): One map from C to 4 offsets for every layer.
            attn_mask (Tensor, optional): ``(Q, Q)``, True where a query does not see another.

        Returns:
            tuple[list[Tensor], list[Tensor]]: Queries ``(B, Q, C)`` and boxes ``(B, Q, 4)`` of every layer in use.
        """
        states, boxes, previous = [], [], references
        for i in range(self.num_layers if self.training else self.num_eval_layers):
            position = self.query_pos_head(references)
            query = self.layers[i](query, position, references, memory, shapes, attn_mask)
            offsets = reg_branches[i](query)
            refined = (offsets + inverse_sigmoid(references)).sigmoid()
            # The same values; in training with a gradient for the boxes of the layer before (look forward twice).
            twice = (offsets + inverse_sigmoid(previous)).sigmoid() if self.training else refined
            previous = refined
            references = refined.detach()
            states.append(query)
            boxes.append(twice)
        return states, boxes


class RTDETRDecoderLayer(nn.Module):
    """Self-attention of the queries, deformable attention to the memory, feed-forward part; norms after the sums."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        feedforward_channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dims, num_heads, dropout, batch_first=True)
        self.cross_attn = MultiScaleDeformableAttention(embed_dims, num_heads, num_levels, num_points)
        self.linear1 = nn.Linear(embed_dims, feedforward_channels)
        self.linear2 = nn.Linear(feedforward_channels, embed_dims)
        self.norm1 = nn.LayerNorm(embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.norm3 = nn.LayerNorm(embed_dims)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        references: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """``(B, Q, C)`` to ``(B, Q, C)``."""
        located = query + position
        attended, _ = self.self_attn(located, located, query, attn_mask=attn_mask, need_weights=False)
        query = self.norm1(query + self.dropout(attended))
        attended = self.cross_attn(query + position, references, memory, shapes)
        query = self.norm2(query + self.dropout(attended))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(query))))
        # Half precision may have overflown to infinity, which the norm would turn into NaN.
        return self.norm3((query + self.dropout(hidden)).clamp(-FLOAT16_MAX, FLOAT16_MAX))
