"""Global feature extraction, GFE: every token of every level attends to every P-th token of all levels.

Paper: CFSAM (arXiv 2510.14726), section 3.2, eqs. 1 to 4, and the right half of fig. 2.

Shape shorthand in this module:
    B: batch, N: tokens of all levels, P: parts, C: channels, Hi, Wi: size of level i
"""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers import TransformerLayer

from .partition import combine, partition

__all__ = ['GlobalFeatureExtraction', 'flatten_levels']


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """All levels as one sequence, row by row, level after level (eq. 1).

    The paper's eq. 1 has a sum sign; its text and the shape that it states, ``C x (H1 W1 + H2 W2 + H3 W3)``, are those
    of a concatenation.

    Args:
        maps (Sequence[Tensor]): ``(B, C, Hi, Wi)`` each.

    Returns:
        Tensor: ``(B, sum of Hi * Wi, C)``.

    Example:
        >>> flatten_levels([torch.rand(2, 8, 5, 5), torch.rand(2, 8, 3, 3)]).shape
        torch.Size([2, 34, 8])
    """
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)


class GlobalFeatureExtraction(BaseModule):
    """Partition, one Transformer for all parts, Combine (eqs. 2 to 4).

    The parts are rows of one batch: they share the weights and are computed at once. Tokens carry no position, as the
    paper has none; what a token knows of its place comes from the convolutions before.

    Args:
        channels (int): C.
        num_parts (int): P.
        num_layers (int): Layers of the Transformer.
        num_heads (int): Heads of its attention.
        feedforward_channels (int): Hidden width of its feed-forward parts.
        dropout (float): In every layer. Defaults to 0.0.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to a truncated normal
            distribution of width 0.02 for linear layers, as in ViT; ours. The Transformer then begins as little more
            than the identity. With Xavier's weights its first attention, nearly the mean of all tokens, adds one large
            offset to each of them.

    Example:
        >>> gfe = GlobalFeatureExtraction(32, num_parts=2, num_layers=1, num_heads=4, feedforward_channels=64)
        >>> gfe(torch.rand(2, 34, 32)).shape
        torch.Size([2, 34, 32])
    """

    def __init__(
        self,
        channels: int,
        num_parts: int,
        num_layers: int,
        num_heads: int,
        feedforward_channels: int,
        dropout: float = 0.0,
        init_cfg: dict | list | None = dict(type='TruncNormal', layer='Linear', std=0.02),  # noqa: B006
    ) -> None:
        super().__init__(init_cfg)
        self.num_parts = num_parts
        self.transformer = nn.ModuleList(
            TransformerLayer(channels, num_heads, feedforward_channels, dropout) for _ in range(num_layers)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """L ``(B, N, C)``, N a multiple of P, to L' ``(B, N, C)``."""
        parts = partition(tokens, self.num_parts)  # eq. 2
        for layer in self.transformer:  # eq. 3
            parts = layer(parts)
        return combine(parts, self.num_parts)  # eq. 4
