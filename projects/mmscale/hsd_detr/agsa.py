"""Adaptive gated sparse attention, AGSA: each position attends to its strongest keys, as many as the image needs.

Paper: HSD-DETR (Remote Sens. 2026, 18(10), 1577), section 3.4, eqs. 8 to 15, fig. 4.

    x --+-- 25 % active --- LN -- 1x1 --> Q, K, V -- top-K attention --+
        |                                              ^               +-- cat -- SiLU -- 1x1 --> out
        +-- 75 % passive ------------------------------|---------------+
        |                                              |
        +-- statistics -- gate --> rho, K = floor(rho * N)

As eqs. 10 to 12 stand, the gate learns nothing: floor and top-K are constant almost everywhere. By default the mask
therefore has a gradient in training, that of a soft mask over the ranks of the keys (straight-through, Bengio et al.,
2013); the values are the paper's. ``gate='literal'`` is the paper's form, whose gate has a gradient of zero.

Ours, where the paper is silent or its formulas are lost: the gate (mean and standard deviation of every channel, two
1x1 convolutions with a SiLU between them), one head, queries and keys as wide as the active part, at least one key.

Shape shorthand in this module:
    B: batch, C: channels, A: active channels, H, W: size of the map, N: H * W, D: heads
"""

import torch
from torch import Tensor, nn

from mmscale.layers import full_precision

__all__ = ['AGSA']

GATES = ('straight_through', 'literal')


class AGSA(nn.Module):
    """Top-K self-attention on a quarter of the channels, K by image.

    Args:
        channels (int): C.
        active_ratio (float): A over C. Defaults to 0.25, the paper's.
        num_heads (int): D, a divisor of A. Defaults to 1; ours.
        gate (str): How the gate is trained.

            - ``'straight_through'``: by the gradient of a soft mask. Ours, and the default.
            - ``'literal'``: as eqs. 10 to 12, by no gradient at all.
        temperature (float): Width of the soft mask's edge, as a share of N. Defaults to 0.1; ours.
        gate_channels (int, optional): Hidden width of the gate. Defaults to None, C / 4; ours.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> AGSA(32)(torch.rand(2, 32, 5, 7)).shape
        torch.Size([2, 32, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        active_ratio: float = 0.25,
        num_heads: int = 1,
        gate: str = 'straight_through',
        temperature: float = 0.1,
        gate_channels: int | None = None,
    ) -> None:
        super().__init__()
        active = int(channels * active_ratio)
        if not 0 < active <= channels:
            raise ValueError(f'active_ratio={active_ratio} of channels={channels} leaves {active} active channels')
        if num_heads < 1 or active % num_heads:
            raise ValueError(f'num_heads={num_heads} of AGSA does not divide its {active} active channels')
        if gate not in GATES:
            raise ValueError(f'gate={gate!r} of AGSA is none of {GATES}')
        if temperature <= 0:
            raise ValueError(f'temperature={temperature} of AGSA should be positive')
        self.splits = (active, channels - active)
        self.num_heads, self.learns, self.temperature = num_heads, gate == 'straight_through', temperature
        self.norm = nn.LayerNorm(active)
        self.qkv = nn.Linear(active, 3 * active)  # 1x1 convolutions, on tokens
        hidden = max(channels // 4, 1) if gate_channels is None else gate_channels
        if hidden < 1:
            raise ValueError(f'gate_channels={gate_channels} of AGSA should be 1 or more')
        self.gate = nn.Sequential(nn.Linear(2 * channels, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.proj = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        active, passive = x.split(self.splits, dim=1)
        tokens = self.norm(active.flatten(2).transpose(1, 2))
        heads = self.qkv(tokens).view(*tokens.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)  # (B, D, N, A / D) each
        weights = self.attention(query, key, self.rho(x)).to(value.dtype)
        attended = (weights @ value).transpose(2, 3).reshape(active.shape)  # eq. 14
        return self.proj(torch.cat((attended, passive), dim=1))  # eq. 15

    def rho(self, x: Tensor) -> Tensor:
        """The share of keys that an image retains, from its statistics (eq. 8).

        Args:
            x (Tensor): ``(B, C, H, W)``.

        Returns:
            Tensor: ``(B,)``, from 0 to 1, in single precision or better: bfloat16 has 128 steps between 0.5 and 1.
        """
        with full_precision(x):
            values = x.flatten(2).to(torch.promote_types(x.dtype, torch.float32))
            mean = values.mean(2)
            deviation = ((values - mean[..., None]).square().mean(2) + 1e-6).sqrt()
            logit = self.gate(torch.cat((mean, deviation), dim=1).to(self.gate[0].weight.dtype))
            return logit.to(values.dtype).sigmoid().squeeze(1)

    def attention(self, query: Tensor, key: Tensor, rho: Tensor) -> Tensor:
        """The attention of the K strongest keys of every query (eqs. 10 to 13 and the softmax of eq. 14).

        Args:
            query (Tensor): ``(B, D, N, A / D)``.
            key (Tensor): ``(B, D, N, A / D)``.
            rho (Tensor): ``(B,)``.

        Returns:
            Tensor: ``(B, D, N, N)``, zero but at K keys of a row, whose sum is one; in the precision of ``rho``.
        """
        scores = ((query / query.shape[-1] ** 0.5) @ key.transpose(2, 3)).to(rho.dtype)  # eq. 11
        order = scores.detach().argsort(dim=-1, descending=True)
        kept = self._kept(rho, scores)[:, None, None].expand_as(scores)
        mask = torch.zeros_like(scores).scatter(-1, order, kept)  # eq. 12
        # eq. 13 and the softmax: minus infinity for a score is zero for its exponential
        weights = mask * (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
        return weights / weights.sum(dim=-1, keepdim=True)

    def _kept(self, rho: Tensor, scores: Tensor) -> Tensor:
        """Which ranks are retained, the strongest first: ``(B, N)`` of ones and zeros (eq. 10)."""
        count = scores.shape[-1]
        ranks = torch.arange(count, device=scores.device)
        number = (rho.detach() * count).floor().clamp(min=1)
        kept = (ranks < number[:, None]).to(scores.dtype)
        if self.training:
            soft = 0 * rho[:, None]  # literally: a gradient of zero, which several processes can share
            if self.learns:
                soft = ((rho[:, None] - (ranks + 0.5) / count) / self.temperature).sigmoid()
            kept = kept + (soft - soft.detach())
        return kept
