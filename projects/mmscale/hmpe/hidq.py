"""Heatmap-induced high-quality queries: the hottest positions are the decoder's queries.

Paper: "HMPE: HeatMap Embedding for Efficient Transformer-Based Small Object Detection" (Zeng et al., 2025), section
3.2.2, eqs. 8 and 9, fig. 3.

    memory --- LN --- * H_mixed --- hottest K --- W'_Q --> queries --+
      |                                                             v
      +------ W_V, once for all layers -----------------> deformable attention, layer after layer

Eq. 9 attends with keys and values of the encoder, K_enc and V_enc. Deformable attention has no keys; the values are
projected once and serve all layers, where RT-DETR projects them anew in each. It is what the paper's table 4 counts:
1.7 GFLOPs for the first layer, 0.8 for every other.

As RT-DETR's, the queries enter the decoder without a gradient: W'_Q, the heat and lambda learn from the losses of the
proposals that the queries make, not from the decoder's.

Ours: the layer norm before the heat, which makes the heat a query's length; were it behind, it would undo it.

Shape shorthand in this module:
    B: batch, S: positions of all levels, C: channels, K: queries
"""

from collections.abc import Sequence

from torch import Tensor, nn

from mmscale.rtdetr import RTDETRDecoder

__all__ = ['HIDQ', 'SharedValueDecoder']


class HIDQ(nn.Module):
    """Queries of the hottest positions.

    Args:
        channels (int): C.

    Example:
        >>> import torch
        >>> queries, places = HIDQ(8)(torch.rand(1, 5, 8), torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.3]]), 2)
        >>> queries.shape, places
        (torch.Size([1, 2, 8]), tensor([[1, 3]]))
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.query_proj = nn.Linear(channels, channels)

    def forward(self, memory: Tensor, heat: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Select.

        Args:
            memory (Tensor): ``(B, S, C)``.
            heat (Tensor): H_mixed, ``(B, S)``.
            count (int): K; with fewer positions, all of them are queries.

        Returns:
            tuple[Tensor, Tensor]: Queries ``(B, K, C)``, hottest first, and their places in the memory ``(B, K)``.
        """
        places = heat.detach().argsort(dim=1, descending=True)[:, :count]  # top-k would put the size into a graph
        embedding = self.norm(memory.gather(1, places[..., None].expand(-1, -1, memory.shape[-1])))
        return self.query_proj(embedding * heat.gather(1, places)[..., None]), places  # eq. 8


class SharedValueDecoder(RTDETRDecoder):
    """RT-DETR's decoder with one projection of the memory for all layers, eq. 9; arguments are the same."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.layers:
            self.value_proj = nn.Linear(self.embed_dims, self.embed_dims)
        for layer in self.layers:
            layer.cross_attn.value_proj = nn.Identity()

    def init_weights(self) -> None:
        """As RT-DETR's; the values as MMCV's deformable attention has them."""
        super().init_weights()
        if self.layers:
            nn.init.xavier_uniform_(self.value_proj.weight)
            nn.init.zeros_(self.value_proj.bias)

    def forward(
        self,
        query: Tensor,
        references: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
        reg_branches: nn.ModuleList,
        attn_mask: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See :meth:`RTDETRDecoder.forward`."""
        if self.layers and (self.training or self.num_eval_layers):
            memory = self.value_proj(memory)
        return super().forward(query, references, memory, shapes, reg_branches, attn_mask)
