"""The attention of YOLOv12 and YOLOv10, and the stages that are made of it. None of them needs MMYOLO.

Papers: "YOLOv12: Attention-Centric Real-Time Object Detectors" (Tian, Ye and Doermann, NeurIPS 2025): area attention
(section 3.2, fig. 2) and R-ELAN (section 3.3, fig. 3). "YOLOv10: Real-Time End-to-End Object Detection" (Wang et al.,
NeurIPS 2024): PSA (fig. 3c).

Shape shorthand in this module:
    B: batch, C: channels, H, W: size of a map, N = H W: positions, A: areas, h: heads, d: channels of a head
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import C3k, conv

__all__ = ['PSA', 'A2C2f', 'AreaAttention', 'AreaAttentionBlock']


class _MapAttention(nn.Module):
    """Self-attention over a map's positions whose values also pass a depthwise convolution: what PSA and areas share.

    Children make ``project(x)``, which returns queries, keys and values as maps with the heads' channels in order.
    """

    def __init__(self, channels: int, num_heads: int, position_kernel: int, areas: int = 1, **layers) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f'channels={channels} are not a multiple of num_heads={num_heads}')
        self.num_heads = num_heads
        self.areas = areas
        self.position = conv(channels, channels, position_kernel, groups=channels, act=False, **layers)
        self.out = conv(channels, channels, act=False, **layers)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        height, width = x.shape[-2:]
        if self.areas > 1 and not torch.jit.is_tracing() and height * width % self.areas:
            raise ValueError(
                f'a map of {height}x{width} positions is not divided by areas={self.areas}: use images whose sides are '
                'multiples of 32'
            )
        queries, keys, values = self.project(x)
        mixed = F.scaled_dot_product_attention(*(self._tokens(part) for part in (queries, keys, values)))
        # (B A, h, N / A, d) back to (B, C, H, W)
        mixed = mixed.transpose(-1, -2).flatten(1, 2).unflatten(0, (-1, self.areas)).transpose(1, 2)
        mixed = mixed.reshape(x.shape)  # of the values, a traced graph would keep the numbers
        return self.out(mixed + self.position(values))

    def _tokens(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B A, h, N / A, C / h)``: heads of channels, areas of rows."""
        x = x.flatten(2).unflatten(2, (self.areas, -1)).transpose(1, 2).flatten(0, 1)
        return x.unflatten(1, (self.num_heads, -1)).transpose(-1, -2)


class AreaAttention(_MapAttention):
    """YOLOv12's area attention: the map's rows in A equal areas, attention within each (section 3.2, fig. 2).

    Args:
        channels (int): C, in and out.
        num_heads (int): Heads.
        areas (int): A; 1 attends over the whole map. Defaults to 1.
        position_kernel (int): Side of the depthwise convolution on the values ("position perceiver"). Defaults to 5,
            the released models'; the paper's text says 7.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.

    Example:
        >>> import torch
        >>> AreaAttention(64, num_heads=2, areas=4)(torch.rand(1, 64, 8, 4)).shape
        torch.Size([1, 64, 8, 4])
    """

    def __init__(self, channels: int, num_heads: int, areas: int = 1, position_kernel: int = 5, **layers) -> None:
        super().__init__(channels, num_heads, position_kernel, areas, **layers)
        self.queries_keys = conv(channels, 2 * channels, act=False, **layers)
        self.values = conv(channels, channels, act=False, **layers)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, ``(B, C, H, W)`` each."""
        return *self.queries_keys(x).chunk(2, dim=1), self.values(x)


class AreaAttentionBlock(nn.Module):
    """Area attention and a convolutional MLP, each added to its input.

    Args:
        channels (int): C, in and out.
        num_heads (int): Heads.
        areas (int): A of :class:`AreaAttention`. Defaults to 1.
        mlp_ratio (float): Hidden width of the MLP over C. Defaults to 2.0.
        position_kernel (int): As :class:`AreaAttention`'s. Defaults to 5.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        areas: int = 1,
        mlp_ratio: float = 2.0,
        position_kernel: int = 5,
        **layers,
    ) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.attention = AreaAttention(channels, num_heads, areas, position_kernel, **layers)
        self.mlp = nn.Sequential(conv(channels, hidden, **layers), conv(hidden, channels, act=False, **layers))

    def reset_parameters(self) -> None:
        """The released code's start: normal weights of standard deviation 0.02, cut at 2."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        x = x + self.attention(x)
        return x + self.mlp(x)


class A2C2f(nn.Module):
    """R-ELAN, YOLOv12's stage (section 3.3, fig. 3d): one narrow map, blocks in a row, every block's output kept.

        x -+- 1x1 --+------------------------------+-- concat -- 1x1 -- times gamma -+- add -->
           |        +-- block --+------------------+                                 |
           |                    +-- block -- ... --+                                 |
           +-------------------------- (residual) ----------------------------------+

    A block is two :class:`AreaAttentionBlock`, or a :class:`C3k` in the neck.

    Args:
        in_channels (int): C in.
        out_channels (int): C out.
        num_blocks (int): Blocks. Defaults to 1.
        areas (int, optional): A of the area attention. Defaults to None: C3k blocks.
        residual (bool): Whether the input is added, the stage's own map times gamma, which starts at 0.01. The paper
            has it in the large models only. Defaults to False.
        mlp_ratio (float): As :class:`AreaAttentionBlock`'s. Defaults to 2.0.
        position_kernel (int): As :class:`AreaAttention`'s. Defaults to 5.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.

    Raises:
        ValueError: If half of C out is not a multiple of a head's 32 channels, or a residual does not fit.
    """

    HEAD_WIDTH = 32

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 1,
        areas: int | None = None,
        residual: bool = False,
        mlp_ratio: float = 2.0,
        position_kernel: int = 5,
        **layers,
    ) -> None:
        super().__init__()
        width = out_channels // 2
        if areas is not None and width % self.HEAD_WIDTH:
            raise ValueError(f'out_channels={out_channels} of A2C2f must be a multiple of {2 * self.HEAD_WIDTH}')
        if residual and in_channels != out_channels:
            raise ValueError(f'in_channels={in_channels} must equal out_channels={out_channels} where A2C2f adds them')

        def block() -> nn.Module:
            if areas is None:
                return C3k(width, 2, **layers)
            pair = (
                AreaAttentionBlock(width, width // self.HEAD_WIDTH, areas, mlp_ratio, position_kernel, **layers)
                for _ in range(2)
            )
            return nn.Sequential(*pair)

        self.reduce = conv(in_channels, width, **layers)
        self.blocks = nn.ModuleList(block() for _ in range(num_blocks))
        self.fuse = conv((1 + num_blocks) * width, out_channels, **layers)
        self.gamma = nn.Parameter(torch.full((out_channels,), 0.01)) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C in, H, W)`` to ``(B, C out, H, W)``."""
        maps = [self.reduce(x)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        out = self.fuse(torch.cat(maps, dim=1))
        return out if self.gamma is None else x + self.gamma.view(-1, 1, 1) * out


class _PartialAttention(_MapAttention):
    """PSA's attention: queries and keys of half a head's width."""

    def __init__(self, channels: int, num_heads: int, **layers) -> None:
        super().__init__(channels, num_heads, position_kernel=3, **layers)
        self.widths = [channels // num_heads // 2, channels // num_heads // 2, channels // num_heads]
        self.queries_keys_values = conv(channels, 2 * channels, act=False, **layers)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys ``(B, C / 2, H, W)``, values ``(B, C, H, W)``; every head's three lie together."""
        heads = self.queries_keys_values(x).unflatten(1, (self.num_heads, -1)).split(self.widths, dim=2)
        return tuple(part.flatten(1, 2) for part in heads)


class PSA(nn.Module):
    """YOLOv10's partial self-attention (fig. 3c): attention and an MLP on half of the channels.

    Args:
        channels (int): C, in and out.
        num_heads (int, optional): Heads. Defaults to None: one for 64 of the C / 2 channels.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.

    Raises:
        ValueError: If the C / 2 channels are not a multiple of the heads.
    """

    def __init__(self, channels: int, num_heads: int | None = None, **layers) -> None:
        super().__init__()
        width = channels // 2
        self.split = conv(channels, 2 * width, **layers)
        self.attention = _PartialAttention(width, num_heads or max(width // 64, 1), **layers)
        self.mlp = nn.Sequential(conv(width, 2 * width, **layers), conv(2 * width, width, act=False, **layers))
        self.fuse = conv(2 * width, channels, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        passive, active = self.split(x).chunk(2, dim=1)
        active = active + self.attention(active)
        active = active + self.mlp(active)
        return self.fuse(torch.cat([passive, active], dim=1))
