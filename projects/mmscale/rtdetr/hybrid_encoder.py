"""RT-DETR's efficient hybrid encoder: attention inside the top level, convolutions across the levels.

Paper: "DETRs Beat YOLOs on Real-time Object Detection" (Zhao et al., CVPR 2024), section 4.2, figs. 3 and 4; code:
github.com/lyuwenyu/RT-DETR.

    C5 -- 1x1 --> AIFI -- 1x1 --+-----------------------------------------------+-- cat -- CSP --> N5
                                |                                               ^
                                up                                             3x3, stride 2
                                v                                               |
    C4 -- 1x1 ---------------- cat -- CSP -- 1x1 --+-------------- cat -- CSP --+----------------> N4
                                                   |                ^
                                                   up              3x3, stride 2
                                                   v                |
    C3 -- 1x1 ----------------------------------- cat -- CSP -------+----------------------------> N3

A method that changes what is encoded overrides :meth:`HybridEncoder._project`; one that changes how two levels meet on
the way down, :meth:`HybridEncoder._join` or, where it replaces the CSP block, too, :meth:`HybridEncoder._fuse`.

Ours: the upsampled map takes the low one's size, so that inputs whose sides are no multiple of 32 work; in the official
code they fail. The positional encoding follows the map's rows and columns; the official code's enumerates columns
first, which is the same on the square maps of its recipe, but is transposed on others.

Shape shorthand in this module:
    B: batch, Ci: channels of the backbone's level, C: channels of the encoder, H, W: size of a level
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_activation_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers import RepVGGBlock, init_as_torch
from mmscale.options import check_options
from mmscale.registry import MODELS

__all__ = ['AIFI', 'CSPRepLayer', 'HybridEncoder', 'sine_position_embedding']


@MODELS.register_module()
class AIFI(BaseModule):
    """Attention-based intra-scale feature interaction: a Transformer encoder on the pixels of one map.

    Args:
        channels (int): C of the map, a multiple of 4 and of ``num_heads``.
        num_heads (int): Heads of the attention. Defaults to 8.
        feedforward_channels (int): Hidden width of the feed-forward part. Defaults to 1024.
        num_layers (int): Encoder layers. Defaults to 1.
        dropout (float): Dropout in every layer. Defaults to 0.0.
        act_cfg (dict): Activation of the feed-forward part. Defaults to ``dict(type='GELU')``.
        temperature (float): Of the sine positional encoding. Defaults to 10000.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None, PyTorch's own.

    Raises:
        ValueError: If ``channels`` is no multiple of 4 or of ``num_heads``.

    Example:
        >>> import torch
        >>> AIFI(channels=32, num_heads=4, feedforward_channels=64)(torch.rand(2, 32, 5, 7)).shape
        torch.Size([2, 32, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        feedforward_channels: int = 1024,
        num_layers: int = 1,
        dropout: float = 0.0,
        act_cfg: dict | None = None,
        temperature: float = 10000.0,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if channels % 4 or channels % num_heads:
            raise ValueError(f'channels={channels} of AIFI must be a multiple of 4 and of num_heads={num_heads}')
        self.channels = channels
        self.temperature = temperature
        act_cfg = act_cfg or dict(type='GELU')
        self.layers = nn.ModuleList(
            [
                TransformerEncoderLayer(channels, num_heads, feedforward_channels, dropout, act_cfg)
                for _ in range(num_layers)
            ]
        )

    def init_weights(self) -> None:
        """PyTorch's own; as in the official code, several layers start as copies of one."""
        init_as_torch(self)
        for layer in self.layers[1:]:
            layer.load_state_dict(self.layers[0].state_dict())
        super().init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        position = sine_position_embedding(height, width, self.channels, self.temperature, x.device)
        position = position.to(tokens.dtype)
        for layer in self.layers:
            tokens = layer(tokens, position)
        return tokens.transpose(1, 2).view(x.shape)


class TransformerEncoderLayer(nn.Module):
    """Self-attention and feed-forward part with the norms after the residual sums; positions in queries and keys."""

    def __init__(self, channels: int, num_heads: int, feedforward_channels: int, dropout: float, act_cfg: dict) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, num_heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(channels, feedforward_channels)
        self.linear2 = nn.Linear(feedforward_channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.act = build_activation_layer(act_cfg)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """``tokens`` ``(B, H * W, C)`` with ``position`` ``(1, H * W, C)`` to ``(B, H * W, C)``."""
        located = tokens + position
        attended, _ = self.self_attn(located, located, tokens, need_weights=False)
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.dropout(self.act(self.linear1(tokens)))
        return self.norm2(tokens + self.dropout(self.linear2(hidden)))


def sine_position_embedding(
    height: int,
    width: int,
    channels: int,
    temperature: float = 10000.0,
    device: torch.device | str = 'cpu',
    scale: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Sines and cosines of the row, then of the column, C / 4 frequencies each.

    Args:
        height (int): H.
        width (int): W.
        channels (int): C, a multiple of 4.
        temperature (float): The frequencies are ``temperature ** (-4 i / C)``. Defaults to 10000.
        device (torch.device or str): Where the result lies. Defaults to ``'cpu'``.
        scale (tuple[float, float]): Height and width of a cell: row i is at ``(i + 0.5) * scale[0] - 0.5``, columns
            likewise. A level with the scale 0.5 lies over one of half its size. Defaults to (1, 1), row i at i.

    Returns:
        Tensor: ``(1, H * W, C)`` in single precision.

    Example:
        >>> sine_position_embedding(2, 3, 8)[0, :, 0]  # sines of the rows
        tensor([0.0000, 0.0000, 0.0000, 0.8415, 0.8415, 0.8415])
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # the size is part of the graph
        return _sine_position_embedding(height, width, channels, temperature, device, scale)
    return _known_position_embedding(height, width, channels, temperature, str(device), scale)


def _sine_position_embedding(height, width, channels, temperature, device, scale) -> Tensor:
    frequencies = temperature ** (-torch.arange(channels // 4, device=device, dtype=torch.float32) / (channels // 4))
    rows, columns = (
        ((torch.arange(side, device=device).float() + 0.5) * size - 0.5)[:, None] * frequencies
        for side, size in zip((height, width), scale, strict=True)
    )
    rows = torch.cat((rows.sin(), rows.cos()), dim=1)[:, None].expand(-1, width, -1)
    columns = torch.cat((columns.sin(), columns.cos()), dim=1)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), dim=2).flatten(0, 1)[None]


# Sizes repeat from image to image; training at many scales sees a few dozen.
_known_position_embedding = lru_cache(maxsize=64)(_sine_position_embedding)


class CSPRepLayer(nn.Module):
    """The fusion block: two 1x1 branches, one with N RepVGG blocks, summed.

    Args:
        in_channels (int): Channels of the concatenated levels.
        out_channels (int): C.
        num_blocks (int): N. Defaults to 3.
        expansion (float): Width of the branches over C. Defaults to 1.0.
        norm_cfg (dict): Normalisation. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='SiLU', inplace=True)``.

    Example:
        >>> import torch
        >>> CSPRepLayer(16, 8, expansion=0.5)(torch.rand(2, 16, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 3,
        expansion: float = 1.0,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='SiLU', inplace=True))
        hidden = int(out_channels * expansion)
        self.conv1 = ConvModule(in_channels, hidden, 1, **cfg)
        self.conv2 = ConvModule(in_channels, hidden, 1, **cfg)
        self.blocks = nn.Sequential(*[RepVGGBlock(hidden, **cfg) for _ in range(num_blocks)])
        self.conv3 = ConvModule(hidden, out_channels, 1, **cfg) if hidden != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, C, H, W)``."""
        return self.conv3(self.blocks(self.conv1(x)) + self.conv2(x))


@MODELS.register_module()
class HybridEncoder(BaseModule):
    """AIFI on the last level, then CCFM (the paper's CNN-based cross-scale feature fusion) down and up.

    A level is named by its place in ``in_channels``, finest first; any number of them from two works, a stride-4 level
    is one more entry.

    Args:
        in_channels (Sequence[int]): Ci of every level of the backbone.
        out_channels (int): C of every output. Defaults to 256.
        num_blocks (int): RepVGG blocks in a fusion block. Defaults to 3.
        expansion (float): Width of a fusion block's branches over C. Defaults to 1.0.
        aifi (dict or None): Options of :class:`AIFI` without ``channels``, or another module for the last level by
            ``type``: it is built with ``channels`` and maps ``(B, C, H, W)`` to the same. None leaves the last level as
            it is (the paper's table 3, variant A). Defaults to ``dict()``.
        norm_cfg (dict): Normalisation after every convolution. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='SiLU', inplace=True)``.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None, PyTorch's own, as
            the official code.

    Raises:
        ValueError: If there are fewer than two levels, or an option of ``aifi`` is unknown.

    Example:
        >>> import torch
        >>> neck = HybridEncoder([8, 16, 32], out_channels=16, aifi=dict(num_heads=2, feedforward_channels=32))
        >>> maps = [torch.rand(2, c, s, s) for c, s in zip([8, 16, 32], [16, 8, 4])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(2, 16, 16, 16), (2, 16, 8, 8), (2, 16, 4, 4)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_blocks: int = 3,
        expansion: float = 1.0,
        aifi: dict | None = {},  # noqa: B006 (never changed; None has a meaning of its own)
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = list(in_channels)
        if len(self.in_channels) < 2:
            raise ValueError(f'in_channels={self.in_channels} leaves no two levels to fuse')
        self.out_channels = out_channels
        self.num_outs = len(self.in_channels)
        norm_cfg = norm_cfg or dict(type='BN')
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg or dict(type='SiLU', inplace=True))
        self.input_proj = nn.ModuleList(
            [ConvModule(channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None) for channels in self.in_channels]
        )
        self.aifi = _build_aifi(aifi, out_channels)

        def fusion_blocks() -> nn.ModuleList:
            return nn.ModuleList(
                [
                    CSPRepLayer(2 * out_channels, out_channels, num_blocks, expansion, **cfg)
                    for _ in range(self.num_outs - 1)
                ]
            )

        steps = range(self.num_outs - 1)  # in the order of execution: on the way down, step 0 fuses the top level
        self.lateral_convs = nn.ModuleList([ConvModule(out_channels, out_channels, 1, **cfg) for _ in steps])
        self.top_down_blocks = fusion_blocks()
        self.downsample_convs = nn.ModuleList(
            [ConvModule(out_channels, out_channels, 3, stride=2, padding=1, **cfg) for _ in steps]
        )
        self.bottom_up_blocks = fusion_blocks()

    @property
    def fusions(self) -> list[int]:
        """The low level of every fusion on the way down, finest first."""
        return list(range(self.num_outs - 1))

    def init_weights(self) -> None:
        """PyTorch's own distributions; MMCV's convolutions would have others."""
        init_as_torch(self)
        super().init_weights()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Encode the backbone's maps.

        Args:
            inputs (Sequence[Tensor]): One map per level, ``(B, Ci, H_i, W_i)``, finest first, each half as large as the
                one before.

        Returns:
            tuple[Tensor]: One map ``(B, C, H_i, W_i)`` per level, finest first.

        Raises:
            ValueError: If the number of maps or a map's width is not what the neck was built for.
        """
        return self.encode(self.project(inputs))

    def project(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The first half of :meth:`forward`: the backbone's maps in the encoder's width, ``(B, C, H_i, W_i)``."""
        widths = [x.shape[1] for x in inputs]
        if widths != self.in_channels:
            raise ValueError(f'the backbone gives maps with {widths} channels, but in_channels={self.in_channels}')
        return self._project(inputs)

    def encode(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The second half of :meth:`forward`: attention, then fusion down and up."""
        maps = self._attend(list(maps))
        for level in reversed(self.fusions):  # top-down
            maps[level + 1] = self.lateral_convs[self._step(level)](maps[level + 1])
            maps[level] = self._fuse(level, maps[level], maps[level + 1])

        outs = [maps[0]]
        for conv, block, high in zip(self.downsample_convs, self.bottom_up_blocks, maps[1:], strict=True):  # bottom-up
            outs.append(block(torch.cat((conv(outs[-1]), high), dim=1)))
        return tuple(outs)

    def _project(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The maps that the encoder works on, ``(B, C, H, W)``: one 1x1 convolution per level."""
        return [conv(x) for conv, x in zip(self.input_proj, inputs, strict=True)]

    def _attend(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps after the attention: AIFI on the last level."""
        if self.aifi is not None:
            maps[-1] = self.aifi(maps[-1])
        return maps

    def _step(self, level: int) -> int:
        """The place of a fusion into ``level`` in the order of execution."""
        return self.num_outs - 2 - level

    def _fuse(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        """One fusion on the way down: the projected map of ``level`` and the map above it, ``(B, C, H, W)`` all."""
        return self.top_down_blocks[self._step(level)](self._join(level, low, high))

    def _join(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        """What a fusion block receives, ``(B, 2 * C, H, W)``: the high level at the low one's size, then the low."""
        return torch.cat((self._upsample(high, low), low), dim=1)

    def _upsample(self, high: Tensor, low: Tensor) -> Tensor:
        """The high level at the low one's size, nearest."""
        return F.interpolate(high, size=low.shape[-2:], mode='nearest')

    def _check_fusions(self, name: str, levels: Sequence[int]) -> None:
        """Refuse a level into which nothing is fused; ``name`` is the argument that lists the levels."""
        for level in levels:
            if level not in self.fusions:
                raise ValueError(
                    f'{name}={list(levels)} names level {level}, but this encoder fuses into the levels '
                    f'{self.fusions} (in_channels={self.in_channels})'
                )


def _build_aifi(options: dict | None, channels: int) -> nn.Module | None:
    if options is None:
        return None
    options = {'type': 'mmscale.AIFI', **options}
    if options.get('channels', channels) != channels:
        raise ValueError(f'aifi.channels={options["channels"]} does not match out_channels={channels} of the encoder')
    cls = MODELS.get(options['type']) if isinstance(options['type'], str) else options['type']
    if cls is not None:
        check_options('aifi', cls, options, reserved=('channels',))
    return MODELS.build({**options, 'channels': channels})
