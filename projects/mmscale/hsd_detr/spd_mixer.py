"""SPDMixer, a stem that halves the image without losing a pixel before it learns to halve it again.

Paper: HSD-DETR (Remote Sens. 2026, 18(10), 1577), section 3.3, fig. 3 and eq. 7.

Ours, where the paper is silent, or its formula is lost in our text:
    - The order of the sub-maps in eq. 7 is that of SPD-Conv (Sunkara and Luo, ECML PKDD 2022).
    - An image with an odd side gets one row or column of zeros at its end. So do the border pixels of any padded
      convolution, and so does MMDetection where it makes the images of a batch equal; and the maps have the sizes that
      the stem of a ResNet gives them, ``ceil(H / 4)``.
    - The first block and the depthwise one have 3x3 kernels, and one branch with a kernel each (``num_branches``).
    - The pair of the depthwise and the pointwise block is a class of its own, which also stands between two stages.

Shape shorthand in this module:
    B: batch, C: channels, H, W: size of the input, N: the block's side
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers import MobileOneBlock
from mmscale.registry import MODELS

__all__ = ['ReparamDownsample', 'SPDMixer', 'depth_to_space', 'space_to_depth']


def space_to_depth(x: Tensor, block: int = 2) -> Tensor:
    """Every N-th row and column makes one of N * N sub-maps, one behind the other along the channels (eq. 7).

    The order is SPD-Conv's: the first row varies fastest, then the first column, then the channel within a sub-map;
    for a block of two ``[0::2, 0::2], [1::2, 0::2], [0::2, 1::2], [1::2, 1::2]``. ``pixel_unshuffle`` has the same
    values in another order of channels; to permute them would take four times as long.

    Args:
        x (Tensor): ``(B, C, H, W)``, H and W multiples of N.
        block (int): N. Defaults to 2.

    Returns:
        Tensor: ``(B, N * N * C, H / N, W / N)``.

    Raises:
        ValueError: If the block is not positive, or does not divide a side.

    Example:
        >>> x = torch.arange(8).view(1, 1, 2, 4)
        >>> space_to_depth(x)[0, :, 0].tolist()
        [[0, 2], [4, 6], [1, 3], [5, 7]]
        >>> depth_to_space(space_to_depth(x)).equal(x)
        True
    """
    if block < 1:
        raise ValueError(f'block={block} must be at least 1')
    if not _recording() and (x.shape[-2] % block or x.shape[-1] % block):
        raise ValueError(f'block={block} must divide the sides of x, {x.shape[-2]} and {x.shape[-1]}')
    return torch.cat([x[..., row::block, col::block] for col in range(block) for row in range(block)], dim=1)


def depth_to_space(x: Tensor, block: int = 2) -> Tensor:
    """The inverse of :func:`space_to_depth`.

    Args:
        x (Tensor): ``(B, N * N * C, H / N, W / N)``.
        block (int): N. Defaults to 2.

    Returns:
        Tensor: ``(B, C, H, W)``.

    Raises:
        ValueError: If the block is not positive, or its square does not divide the channels.
    """
    if block < 1:
        raise ValueError(f'block={block} must be at least 1')
    batch, channels, height, width = x.shape
    if channels % block**2:
        raise ValueError(f'the square of block={block} must divide the channels of x, {channels}')
    x = x.reshape(batch, block, block, channels // block**2, height, width)  # B, column, row, C, H / N, W / N
    return x.permute(0, 3, 4, 2, 5, 1).reshape(batch, channels // block**2, height * block, width * block)


class ReparamDownsample(nn.Module):
    """A depthwise MobileOne block of stride 2, then a pointwise one that mixes the channels.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        num_branches (int): Branches with a kernel of either block. Defaults to 1.
        norm_cfg (dict, optional): Normalisation of every branch. Defaults to None, batch norm.
        act_cfg (dict | bool, optional): Activation of both blocks. Defaults to None, MobileOne's ReLU; False for none.

    Example:
        >>> ReparamDownsample(8, 16)(torch.rand(2, 8, 5, 8)).shape
        torch.Size([2, 16, 3, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_branches: int = 1,
        norm_cfg: dict | None = None,
        act_cfg: dict | bool | None = None,
    ) -> None:
        super().__init__()
        options = dict(num_branches=num_branches, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.depthwise = MobileOneBlock(in_channels, in_channels, 3, stride=2, groups=in_channels, **options)
        self.pointwise = MobileOneBlock(in_channels, out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, out_channels, ceil(H / 2), ceil(W / 2))``."""
        return self.pointwise(self.depthwise(x))


@MODELS.register_module()
class SPDMixer(BaseModule):
    """Space-to-depth, a MobileOne block to the embedding width, and a :class:`ReparamDownsample`: stride 4 in all.

    Args:
        in_channels (int): Channels of the image. Defaults to 3.
        out_channels (int): The embedding width. Defaults to 64, that of a ResNet's stem.
        num_branches (int): Branches with a kernel of every block. Defaults to 1.
        norm_cfg (dict, optional): Normalisation of every branch. Defaults to None, batch norm.
        act_cfg (dict | bool, optional): Activation of every block. Defaults to None, MobileOne's ReLU; False for none.
        init_cfg (dict | list[dict], optional): As in MMEngine. Defaults to None, torch's own initialisation.

    Example:
        >>> stem = SPDMixer(out_channels=16)
        >>> stem(torch.rand(2, 3, 64, 97)).shape
        torch.Size([2, 16, 16, 25])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 64,
        num_branches: int = 1,
        norm_cfg: dict | None = None,
        act_cfg: dict | bool | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        options = dict(num_branches=num_branches, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.embed = MobileOneBlock(4 * in_channels, out_channels, 3, **options)
        self.downsample = ReparamDownsample(out_channels, out_channels, **options)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / 4), ceil(W / 4))``."""
        return self.downsample(self.embed(space_to_depth(_even(image))))


def _even(image: Tensor) -> Tensor:
    """The image with a row and a column of zeros more where it has an odd number of them."""
    rows, columns = image.shape[-2] % 2, image.shape[-1] % 2
    if not _recording() and not rows and not columns:
        return image
    return F.pad(image, [0, columns, 0, rows])


def _recording() -> bool:
    """Whether a graph is recorded that serves other sizes, too: then no size may decide what it consists of."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()
