"""A pre-norm Transformer layer over any sequence of tokens.

Papers: "Attention Is All You Need" (Vaswani et al., NeurIPS 2017), section 3; the norms stand before the two parts, as
in "An Image is Worth 16x16 Words" (Dosovitskiy et al., ICLR 2021), eqs. 2 and 3.

PyTorch's own ``nn.TransformerEncoderLayer`` has the same formula, but its path for inference holds the whole attention
matrix on a CPU, N x N per head; :func:`torch.nn.functional.scaled_dot_product_attention` does so on a CPU only where
attention weights are dropped in training.

Shape shorthand in this module:
    B: batch, N: tokens, C: channels, h: heads
"""

import torch.nn.functional as F
from mmcv.cnn import build_activation_layer
from torch import Tensor, nn

__all__ = ['SelfAttention', 'TransformerLayer']


class SelfAttention(nn.Module):
    """Multi-head self-attention, through PyTorch's fused kernels.

    Args:
        channels (int): C, a multiple of ``num_heads``.
        num_heads (int): h.
        dropout (float): Of the attention weights, in training. Defaults to 0.0.

    Raises:
        ValueError: If ``num_heads`` does not divide ``channels``.

    Example:
        >>> import torch
        >>> SelfAttention(32, num_heads=4)(torch.rand(2, 9, 32)).shape
        torch.Size([2, 9, 32])
    """

    def __init__(self, channels: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f'channels={channels} of an attention must be a multiple of num_heads={num_heads}')
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        batch, length, channels = tokens.shape
        heads = self.qkv(tokens).reshape(batch, length, 3, self.num_heads, channels // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, N, C / h) each
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        del heads, query, key, value  # 3 N C that inference needs no longer
        return self.proj(attended.transpose(1, 2).reshape(batch, length, channels))


class TransformerLayer(nn.Module):
    """``x + attention(norm(x))``, then ``x + feedforward(norm(x))``. Positions are the caller's affair.

    Args:
        channels (int): C, a multiple of ``num_heads``.
        num_heads (int): Heads of the attention.
        feedforward_channels (int): Hidden width of the feed-forward part.
        dropout (float): Of the attention weights, of the hidden layer and of what each part adds. Defaults to 0.0.
        act_cfg (dict, optional): Activation of the feed-forward part. Defaults to None, ``dict(type='GELU')``.

    Raises:
        ValueError: If ``num_heads`` does not divide ``channels``.

    Example:
        >>> import torch
        >>> TransformerLayer(32, num_heads=4, feedforward_channels=64)(torch.rand(2, 9, 32)).shape
        torch.Size([2, 9, 32])
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        feedforward_channels: int,
        dropout: float = 0.0,
        act_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = SelfAttention(channels, num_heads, dropout)
        self.norm2 = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            nn.Linear(channels, feedforward_channels),
            build_activation_layer(act_cfg or dict(type='GELU')),
            nn.Dropout(dropout),
            nn.Linear(feedforward_channels, channels),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        return tokens + self.dropout(self.feedforward(self.norm2(tokens)))
