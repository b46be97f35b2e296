"""A MobileViT block on every map: convolutions around a Transformer whose sequences run over a grid of patches.

Paper: "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer" (Mehta and Rastegari, ICLR
2022), section 3.1, fig. 1b; its code: github.com/apple/ml-cvnets.

    x --+-- 3x3 -- 1x1 -- unfold -- L Transformer layers, LayerNorm -- fold -- 1x1 --+
        |                                                                            +-- cat -- 3x3 --> x'
        +----------------------------------------------------------------------------+

Patches are 2x2 pixels. Unfolding makes four sequences, one for each position in a patch, in which all patches follow
each other; each pixel attends to those of its position, and what is near it comes from the 3x3 convolution before.

From the paper and its code: the drawing, pre-norm layers and the norm after them, SiLU everywhere, convolutions with
batch norm and activation but for the first 1x1, no positions; a map that the patches do not divide (19x19 or 1x1 in
SSD300) is resized bilinearly to the next size that they do, and back. Ours:

- which of its blocks stands on the maps, and that each map has one of its own: CFSAM (arXiv 2510.14726) compares with
  "multiple MobileViT Blocks" and says no more. Defaults are MobileViT-S's first block: d = 144, L = 2, a feed-forward
  part of 288, 4 heads. SSD300 then has 76.90 M parameters and 53.92 GMACs, its table 4 prints 76.75 and 53.74; d = 128
  with a feed-forward part of 384 has 76.78 and 53.84 and is as possible a reading. 47.8 M of either are the two 3x3
  convolutions of each map;
- no dropout (the code drops a tenth of what each part adds).

Shape shorthand in this module:
    B: batch, C: channels of a map, d: channels of the tokens, L: layers, p: side of a patch, n: patches, H, W: size
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmscale.layers import TransformerLayer
from mmscale.registry import MODELS

from .per_level import PerLevelNeck

__all__ = ['MobileViTBlock', 'MobileViTNeck', 'fold', 'unfold']


def unfold(x: Tensor, patch_size: int) -> Tensor:
    """A map as sequences over its patches, one for each position in a patch.

    Args:
        x (Tensor): ``(B, d, H, W)``, both sides multiples of p.
        patch_size (int): p.

    Returns:
        Tensor: ``(B * p * p, n, d)``; the sequences of an image follow each other, row by row of a patch, and so do the
        patches in them.

    Example:
        >>> unfold(torch.arange(8).reshape(1, 1, 2, 4), 2).squeeze(2)
        tensor([[0, 2],
                [1, 3],
                [4, 6],
                [5, 7]])
    """
    batch, channels, height, width = x.shape
    rows, columns = height // patch_size, width // patch_size
    patches = x.reshape(batch, channels, rows, patch_size, columns, patch_size).permute(0, 3, 5, 2, 4, 1)
    return patches.reshape(batch * patch_size * patch_size, rows * columns, channels)


def fold(sequences: Tensor, patch_size: int, size: tuple[int, int]) -> Tensor:
    """Sequences over patches as a map; the inverse of :func:`unfold`.

    Args:
        sequences (Tensor): ``(B * p * p, n, d)``.
        patch_size (int): p.
        size (tuple[int, int]): H and W.

    Returns:
        Tensor: ``(B, d, H, W)``.

    Example:
        >>> x = torch.rand(2, 3, 4, 6)
        >>> torch.equal(fold(unfold(x, 2), 2, (4, 6)), x)
        True
    """
    rows, columns = size[0] // patch_size, size[1] // patch_size
    batch, channels = sequences.shape[0] // (patch_size * patch_size), sequences.shape[2]
    patches = sequences.reshape(batch, patch_size, patch_size, rows, columns, channels)
    return patches.permute(0, 5, 3, 1, 4, 2).reshape(batch, channels, rows * patch_size, columns * patch_size)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    # A traced graph may meet other sizes than the one that it was traced with: there the interpolation stays, which
    # changes nothing where the sizes are equal.
    if not torch.jit.is_tracing() and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


class MobileViTBlock(nn.Module):
    """The block, which keeps a map's shape.

    Args:
        in_channels (int): C.
        channels (int): d, a multiple of ``num_heads``. Defaults to 144.
        num_layers (int): L. Defaults to 2.
        num_heads (int): Heads of the attention. Defaults to 4.
        feedforward_channels (int): Hidden width of the feed-forward parts. Defaults to 288.
        patch_size (int): p. Defaults to 2.
        norm_cfg (dict, optional): Normalisation of the convolutions; None for a bias instead. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict): Activation of convolutions and feed-forward parts. Defaults to ``dict(type='SiLU')``.
        dropout (float): In the Transformer. Defaults to 0.0.

    Raises:
        ValueError: If a size is below 1 or ``num_heads`` does not divide ``channels``; in training, if a batch norm
            gets a single value per channel.

    Example:
        >>> MobileViTBlock(8, channels=16, feedforward_channels=32)(torch.rand(2, 8, 5, 4)).shape
        torch.Size([2, 8, 5, 4])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 144,
        num_layers: int = 2,
        num_heads: int = 4,
        feedforward_channels: int = 288,
        patch_size: int = 2,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006
        act_cfg: dict = dict(type='SiLU'),  # noqa: B006
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = dict(
            channels=channels, num_layers=num_layers, feedforward_channels=feedforward_channels, patch_size=patch_size
        )
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name}={value!r} of MobileViT should be a whole number from 1')
        self.patch_size = patch_size
        conv = partial(ConvModule, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.local = nn.Sequential(
            conv(in_channels, in_channels, 3, padding=1), nn.Conv2d(in_channels, channels, 1, bias=False)
        )
        layer = partial(TransformerLayer, channels, num_heads, feedforward_channels, dropout, act_cfg)
        self.transformer = nn.Sequential(*[layer() for _ in range(num_layers)], nn.LayerNorm(channels))
        self.project = conv(channels, in_channels, 1)
        self.fusion = conv(2 * in_channels, in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        self._check_batch(x)
        tokens = self.project(self._global(self.local(x)))
        return self.fusion(torch.cat((x, tokens), dim=1))

    def _global(self, x: Tensor) -> Tensor:
        """Unfold, the Transformer, fold: ``(B, d, H, W)`` to ``(B, d, H, W)``."""
        size = x.shape[-2:]
        whole = [(side + self.patch_size - 1) // self.patch_size * self.patch_size for side in size]
        sequences = self.transformer(unfold(_resize(x, whole), self.patch_size))
        return _resize(fold(sequences, self.patch_size, whole), size)

    def _check_batch(self, x: Tensor) -> None:
        """A batch norm in training has no variance of one value; PyTorch's error names neither map nor remedy."""
        if not self.training or x.shape[0] * x.shape[2] * x.shape[3] > 1:
            return
        if any(isinstance(module, nn.BatchNorm2d) and module.training for module in self.modules()):
            raise ValueError(
                f'a map of shape {tuple(x.shape)} gives the batch norms of MobileViT one value per channel: train with '
                "2 images or more per process, or with another norm_cfg, for instance dict(type='SyncBN')"
            )


@MODELS.register_module()
class MobileViTNeck(PerLevelNeck):
    """Any number of maps of any widths and sizes to as many maps of the same shapes, each through its own block.

    In a detector it stands behind the neck: ``neck=[dict(type='SSDNeck', ...), dict(type='mmscale.MobileViTNeck',
    in_channels=(512, 1024, 512, 256, 256, 256))]``. Padding that the data pre-processor added to the images is part of
    the maps: a neck sees no mask.

    A map of 1x1 pixels, as SSD300's last one, gives a batch norm one value per image and channel. One image cannot be
    trained with, which is an error of one sentence; two train, but keep of that map only in which of both a channel is
    larger. Large batches, ``norm_cfg=dict(type='SyncBN')`` over several processes or a ``'GN'`` have no such limit.

    Args:
        in_channels (Sequence[int]): Width of every map.
        channels (int): d, the width of the tokens, a multiple of ``num_heads``. Defaults to 144.
        num_layers (int): L, layers of the Transformer. Defaults to 2.
        num_heads (int): Heads of its attention. Defaults to 4.
        feedforward_channels (int): Hidden width of its feed-forward parts. Defaults to 288.
        patch_size (int): Side of a patch. Defaults to 2.
        levels (Sequence[int], optional): Indices of the maps that take part, in ascending order; the others are passed
            on as they are. Defaults to None, all.
        norm_cfg (dict, optional): Normalisation of the convolutions; None for a bias instead. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict): Activation of convolutions and feed-forward parts. Defaults to ``dict(type='SiLU')``.
        dropout (float): In the Transformer. Defaults to 0.0.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to the code's: a truncated
            normal distribution of width 0.02 for linear layers; convolutions are MMCV's ``ConvModule``.

    Raises:
        ValueError: If an argument is out of its range, the maps of ``forward`` are not those of ``in_channels``, or a
            batch norm is trained on a single value per channel.

    Example:
        >>> neck = MobileViTNeck(in_channels=[16, 8], channels=16, feedforward_channels=32)
        >>> [tuple(x.shape) for x in neck([torch.rand(2, 16, 5, 7), torch.rand(2, 8, 1, 1)])]
        [(2, 16, 5, 7), (2, 8, 1, 1)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 144,
        num_layers: int = 2,
        num_heads: int = 4,
        feedforward_channels: int = 288,
        patch_size: int = 2,
        levels: Sequence[int] | None = None,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006
        act_cfg: dict = dict(type='SiLU'),  # noqa: B006
        dropout: float = 0.0,
        init_cfg: dict | list | None = dict(type='TruncNormal', layer='Linear', std=0.02),  # noqa: B006
    ) -> None:
        block = partial(
            MobileViTBlock,
            channels=channels,
            num_layers=num_layers,
            num_heads=num_heads,
            feedforward_channels=feedforward_channels,
            patch_size=patch_size,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            dropout=dropout,
        )
        super().__init__(in_channels, block, levels, init_cfg)
