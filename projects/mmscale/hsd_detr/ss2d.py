"""SS2D, the two-dimensional selective scan: the map is read row by row and column by column, both ways.

Paper: HSD-DETR (Remote Sens. 2026, 18(10), 1577), section 3.2, eq. 2; the name and the four orders are those of
"VMamba: Visual State Space Model" (Liu et al., NeurIPS 2024), section 4.2.

    x -- 1x1 -- depthwise 3x3 -- SiLU --+-- V ----------------------------- scans, summed -- norm -- 1x1 --> out
                                        |                                     ^
                                        +-- 1x1 --> Q, K, step per direction -+

From the paper: a scan over the map in the linear-attention form, a state width and an expansion ratio, whose values are
lost in our text. Ours: 16 and 2, which are Mamba's; everything between the input and the scan, as VMamba has it; heads
of 32 channels with a rate each, as in Mamba-2, instead of one per channel and state, which is no matrix product; no
gate; and a norm of every position behind the scan, as both have one. It must be of the position: value, key, query and
step all grow with the input, so the scan grows with its fourth power, and under batch norm, which is linear in
evaluation, an image noisier than those of the training would end in infinity after a few blocks.

Shape shorthand in this module:
    B: batch, C: channels, H, W: size of the map, D: heads, P: channels of a head, N: width of the state, T: H * W
"""

import math
from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers import RMSNorm2d, init_as_torch

from .selective_scan import ScanInputs, chunked_scan

__all__ = ['SS2D']

DIRECTIONS = ('right', 'left', 'down', 'up')
RATES = (1.0, 16.0)  # Mamba-2's range of -rate at the start
STEPS = (0.001, 0.1)  # Mamba's range of the step at the start


class SS2D(BaseModule):
    """Every position sees the whole map, at a cost in proportion to its positions.

    Args:
        channels (int): C.
        state_channels (int): N. Defaults to 16; ours.
        expansion (float): Width of the values over C. Defaults to 2.0; ours.
        head_channels (int): P, a divisor of ``expansion * channels``. Defaults to 32; ours.
        directions (Sequence[str]): Any of ``'right'``, ``'left'`` (along the rows), ``'down'`` and ``'up'`` (along the
            columns). Defaults to all four.
        chunk (int): Tokens of a chunk; changes time and memory, not the result. Defaults to 32.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None: PyTorch's own for
            convolutions, Mamba's for steps and rates.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> SS2D(16)(torch.rand(2, 16, 5, 7)).shape
        torch.Size([2, 16, 5, 7])
    """

    no_weight_decay = ('log_rate', 'skip')  # as Mamba's

    def __init__(
        self,
        channels: int,
        state_channels: int = 16,
        expansion: float = 2.0,
        head_channels: int = 32,
        directions: Sequence[str] = DIRECTIONS,
        chunk: int = 32,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        inner = int(channels * expansion)
        if head_channels < 1 or inner < 1 or inner % head_channels:
            raise ValueError(
                f'head_channels={head_channels} of SS2D does not divide its {inner} inner channels '
                f'(channels={channels}, expansion={expansion})'
            )
        if state_channels < 1 or chunk < 1:
            raise ValueError(f'state_channels={state_channels} and chunk={chunk} of SS2D should be 1 or more')
        self.directions = _checked_directions(directions)
        self.channels, self.state_channels, self.chunk = channels, state_channels, chunk
        self.num_heads = inner // head_channels
        count = len(self.directions)
        self.in_proj = nn.Conv2d(channels, inner, 1)
        self.local = ConvModule(inner, inner, 3, padding=1, groups=inner, norm_cfg=None, act_cfg=dict(type='SiLU'))
        self.select = nn.Conv2d(inner, count * (2 * state_channels + self.num_heads), 1, bias=False)
        self.step_bias = nn.Parameter(torch.empty(count, self.num_heads))
        self.log_rate = nn.Parameter(torch.empty(count, self.num_heads))
        self.skip = nn.Parameter(torch.empty(self.num_heads))
        self.norm = RMSNorm2d(inner)
        self.out_proj = nn.Conv2d(inner, channels, 1)
        self._init_scan()

    def init_weights(self) -> None:
        """PyTorch's own for convolutions; steps between 0.001 and 0.1, rates between -1 and -16, as Mamba's."""
        super().init_weights()
        if self.init_cfg is None:
            init_as_torch(self)  # behind MMCV's ConvModule, which draws its own from another distribution
            self._init_scan()

    def _init_scan(self) -> None:
        with torch.no_grad():
            low, high = (math.log(step) for step in STEPS)
            step = torch.exp(torch.rand_like(self.step_bias) * (high - low) + low)
            self.step_bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step
            self.log_rate.copy_(torch.empty_like(self.log_rate).uniform_(*RATES).log())
            self.skip.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        value = self.local(self.in_proj(x))
        return self.out_proj(self.norm(self.scan(value)).to(value.dtype))

    def scan(self, value: Tensor) -> Tensor:
        """Eq. 2 in every direction, summed, and each token's own value.

        Args:
            value (Tensor): ``(B, D * P, H, W)``.

        Returns:
            Tensor: ``(B, D * P, H, W)``, in single precision or better.
        """
        inputs = self._inputs(value)
        heads = value.view(value.shape[0], self.num_heads, -1, *value.shape[2:])  # (B, D, P, H, W)
        out = heads * self.skip[:, None, None, None]
        for pair, transposed in ((DIRECTIONS[:2], False), (DIRECTIONS[2:], True)):
            forward, backward = (inputs.get(name) for name in pair)
            if forward is None and backward is None:
                continue
            ordered = heads.transpose(3, 4) if transposed else heads
            scanned = chunked_scan(ordered.flatten(3), forward, backward, self.chunk).view(ordered.shape)
            out = out + (scanned.transpose(3, 4) if transposed else scanned)
        return out.flatten(1, 2)

    def _inputs(self, value: Tensor) -> dict[str, ScanInputs]:
        """Query, key, step and rate of every direction; columns are read from the transposed map."""
        widths = (self.state_channels, self.state_channels, self.num_heads)
        selected = self.select(value).chunk(len(self.directions), dim=1)
        inputs = {}
        for i, (name, x) in enumerate(zip(self.directions, selected, strict=True)):
            x = x.transpose(2, 3) if name in DIRECTIONS[2:] else x
            query, key, step = x.flatten(2).split(widths, dim=1)
            step = step.to(torch.promote_types(step.dtype, torch.float32))
            step = nn.functional.softplus(step + self.step_bias[i, :, None])
            inputs[name] = ScanInputs(query, key, step, -self.log_rate[i].exp())
        return inputs


def _checked_directions(directions: Sequence[str]) -> tuple[str, ...]:
    directions = (directions,) if isinstance(directions, str) else tuple(directions)
    if not directions or len(set(directions)) != len(directions) or not set(directions) <= set(DIRECTIONS):
        raise ValueError(f'directions={directions} of SS2D should be one or more of {DIRECTIONS}, each once')
    return directions
