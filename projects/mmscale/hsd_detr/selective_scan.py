"""The selective scan: what every token collects from those before it, or behind it, or both.

Paper: HSD-DETR (Remote Sens. 2026, 18(10), 1577), section 3.2, eq. 2, whose formula is lost in our text; what is left
of it, ``((Q K^T) o M o decay) V`` and a previous state, is the state-space dual form of "Transformers are SSMs" (Dao
and Gu, ICML 2024), section 6. In the words of that paper: every head is a linear system whose state H, ``P x N``, is
driven by the tokens and read by them,

    H_t = exp(step_t * rate) * H_(t-1) + step_t * value_t key_t^T,        y_t = H_t query_t        (1)

where ``rate < 0`` is the head's own and step, key and query depend on the token ("selective"): Q, K and V are its
query, key and value, M says that t sees only s <= t, and the decay is ``exp(rate * (step_(s+1) + ... + step_t))``.

:func:`sequential_scan` is (1) as it stands, token by token. :func:`chunked_scan` is the same in three parts, of which
the first and the last are matrix products, and which together cost a constant per token:

    within a chunk        ((Q K^T) o M o decay) V                                       L x L per chunk
    between the chunks    the state at a chunk's end from the one before: (1) again, with chunks for tokens
    into a chunk          the state that enters it, decayed up to the token and read by its query

Two opposite directions over one order of the tokens see each other's complement, s <= t and s >= t; they share one
``L x L`` matrix of decays, one exponential and one product with V. That, and everything below, is ours.

Precision: a decay is the exponential of a difference of two running sums, and a running sum of some hundreds has lost
the digits that a small difference needs. Running sums are therefore kept in two parts (:func:`_running_sum`), whose
difference is as exact as if it had been summed from s to t.

Shape shorthand in this module:
    B: batch, T: tokens, D: heads, P: channels of a head, N: channels of query and key (the state's width),
    L: tokens of a chunk, n: chunks
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscale.layers import full_precision

__all__ = ['ScanInputs', 'chunked_scan', 'sequential_scan']

GROUP = 8  # chunks that are carried at once
QUANTUM = 2.0**-12  # the coarse part of a running sum counts in these: exact in single precision up to 4,096,
LENGTH = 64  # which as many tokens do not exceed; longer sums count in coarser ones
FORGOTTEN = -60.0  # exp(-60) is 1e-26: a token, or a chunk, that lets less than that through lets nothing through


class ScanInputs(NamedTuple):
    """What one direction of a scan reads beside the values.

    Attributes:
        query (Tensor): ``(B, N, T)``; all heads share them.
        key (Tensor): ``(B, N, T)``, likewise.
        step (Tensor): ``(B, D, T)``, positive. Exactly zero, it has the right result, but in the chunked form not the
            right gradient.
        rate (Tensor): ``(D,)``, negative.
    """

    query: Tensor
    key: Tensor
    step: Tensor
    rate: Tensor


def sequential_scan(value: Tensor, inputs: ScanInputs, backward: bool = False) -> Tensor:
    """Eq. (1), token by token. For tests and for reading: its time is that of T small steps.

    Args:
        value (Tensor): ``(B, D, P, T)``.
        inputs (ScanInputs): Query, key, step and rate.
        backward (bool): Whether the tokens are taken from the last to the first. Defaults to False.

    Returns:
        Tensor: ``(B, D, P, T)``.

    Example:
        >>> value, one = torch.tensor([1.0, 0.0, 0.0]).view(1, 1, 1, 3), torch.ones(1, 1, 3)
        >>> sequential_scan(value, ScanInputs(one, one, one, torch.tensor([-0.6931472]))).flatten()
        tensor([1.0000, 0.5000, 0.2500])
    """
    query, key, step, rate = inputs
    state = value.new_zeros(*value.shape[:3], query.shape[1])  # (B, D, P, N)
    outs = []
    times = range(value.shape[-1])
    for t in reversed(times) if backward else times:
        decay = torch.exp(step[..., t] * rate)[..., None, None]
        driven = (step[..., None, t] * value[..., t])[..., None] * key[:, None, None, :, t]
        state = decay * state + driven
        outs.append((state * query[:, None, None, :, t]).sum(-1))
    return torch.stack(outs[::-1] if backward else outs, dim=-1)


def chunked_scan(
    value: Tensor, forward: ScanInputs | None = None, backward: ScanInputs | None = None, chunk: int = 32
) -> Tensor:
    """Eq. (1) for one direction, or the sum of both, in time and memory proportional to T.

    Args:
        value (Tensor): ``(B, D, P, T)``.
        forward (ScanInputs, optional): Of the scan from the first token to the last; None without it.
        backward (ScanInputs, optional): Of the scan from the last token to the first; None without it.
        chunk (int): L. The result does not depend on it. Defaults to 32.

    Returns:
        Tensor: ``(B, D, P, T)``, in single precision or better, whatever autocast says.

    Raises:
        ValueError: If there is no direction, a shape does not fit ``value``, or ``chunk`` is below 1.

    Example:
        >>> value, one = torch.tensor([1.0, 0.0, 0.0]).view(1, 1, 1, 3), torch.ones(1, 1, 3)
        >>> half = ScanInputs(one, one, one, torch.tensor([-0.6931472]))
        >>> chunked_scan(value, half).flatten(), chunked_scan(value, backward=half).flatten()
        (tensor([1.0000, 0.5000, 0.2500]), tensor([1., 0., 0.]))
    """
    _check(value, forward, backward, chunk)
    length = value.shape[-1]
    if not torch.jit.is_tracing():  # a traced graph may meet longer inputs
        chunk = min(chunk, length)
    with full_precision(value):
        value = _chunks(_single(value), chunk).transpose(2, 3).contiguous()  # (B, D, n, P, L)
        ahead = None if forward is None else _Direction(forward, chunk, backward=False)
        behind = None if backward is None else _Direction(backward, chunk, backward=True)
        out = value.flatten(0, 2) @ _weights(ahead, behind).flatten(0, 2)
        for direction in (ahead, behind):
            if direction is not None:
                states, query = direction.carried(value)
                out.baddbmm_(states.flatten(0, 2), query.flatten(0, 2))
        return out.view(value.shape).transpose(2, 3).flatten(3)[..., :length]


class _Direction:
    """One direction's inputs in chunks, and its running sums of ``step * rate``.

    Attributes:
        query, key (Tensor): ``(B, n, N, L)``.
        step (Tensor): ``(B, D, n, L)``.
        sums (tuple[Tensor, Tensor]): Both parts of a running sum, ``(B, D, n, L)``. The decay from token s to token t
            is the exponential of ``sums[t] - sums[s]`` on the way forward, of ``sums[s] - sums[t]`` on the way back.
        total (Tensor): Of a whole chunk, ``(B, D, n)``.
    """

    def __init__(self, inputs: ScanInputs, chunk: int, backward: bool) -> None:
        self.backward = backward
        self.query, self.key = (_chunks(_single(x), chunk).transpose(1, 2) for x in inputs[:2])
        self.step = _chunks(_single(inputs.step), chunk)
        decays = (self.step * _single(inputs.rate)[:, None, None]).clamp(min=FORGOTTEN)
        coarse, fine = _running_sum(decays)
        last = coarse[..., -1:], fine[..., -1:]
        self.total = (last[0] + last[1]).squeeze(-1)
        if backward:  # a token's own decay belongs to the way beyond it
            rounded = _rounded(decays)
            coarse, fine = coarse - rounded, fine - (decays - rounded)
            self._to_end = coarse, fine  # from a token back to its chunk's first one
            self._from_start = last[0] - coarse, last[1] - fine
        else:
            self._to_end = last[0] - coarse, last[1] - fine
            self._from_start = coarse, fine
        self.sums = coarse, fine

    def scores(self) -> Tensor:
        """Q K^T with rows for s and columns for t, ``(B, 1, n, L, L)``."""
        return (self.key.transpose(2, 3) @ self.query)[:, None]

    def exponents(self) -> Tensor:
        """Logarithms of step and decay, rows for s and columns for t, ``(B, D, n, L, L)``; not yet masked."""
        coarse, fine = (-x if self.backward else x for x in self.sums)
        start = self.step.clamp(min=torch.finfo(self.step.dtype).tiny).log() - fine
        difference = coarse[..., None, :] - coarse[..., :, None]
        return difference.add_(fine[..., None, :]).add_(start[..., :, None])

    def own(self) -> Tensor:
        """What a token adds to itself, ``(B, D, n, L)``."""
        return self.step * (self.query * self.key).sum(2)[:, None]

    def carried(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """What comes from other chunks: states ``(B, D, n, P, N)``, and queries to read them, ``(B, D, n, N, L)``."""
        left = self.step * torch.exp(self._to_end[0] + self._to_end[1])
        driven = value @ (self.key[:, None] * left[..., None, :]).transpose(3, 4)  # (B, D, n, P, N)
        states = _carry(self.total.clamp(min=FORGOTTEN), driven.flatten(3), self.backward).view(driven.shape)
        left = torch.exp(self._from_start[0] + self._from_start[1])
        return states, self.query[:, None] * left[..., None, :]


def _weights(ahead: _Direction | None, behind: _Direction | None) -> Tensor:
    """``(Q K^T) o M o decay`` of the chunks, rows for s and columns for t, ``(B, D, n, L, L)``."""
    direction = ahead or behind
    length = direction.step.shape[-1]
    places = torch.arange(length, device=direction.step.device)
    past = places[:, None] < places  # s < t
    if ahead is None or behind is None:
        seen = past if behind is None else past.T
        weights = direction.scores() * direction.exponents().masked_fill_(~seen, -torch.inf).exp_()
        own = direction.own()
    else:
        scores = torch.where(past, ahead.scores(), behind.scores())
        weights = torch.where(past, ahead.exponents(), behind.exponents()).exp_()
        weights = scores * weights if torch.is_grad_enabled() else weights.mul_(scores)
        own = ahead.own() + behind.own()
    # s = t: nothing decays, and no rounding of what cancels should reach the rates' gradient
    if torch.jit.is_tracing():  # a copy into a diagonal gets lost
        return torch.where(places[:, None] == places, own[..., None, :], weights)
    weights.diagonal(dim1=-2, dim2=-1).copy_(own)
    return weights


def _carry(decays: Tensor, driven: Tensor, backward: bool) -> Tensor:
    """The state before every chunk, on the way that is scanned: eq. (1) with chunks for tokens.

    More than :data:`GROUP` chunks are taken in groups, and groups of groups, so that the cost stays in proportion.

    Args:
        decays (Tensor): Logarithm of what a chunk leaves of the state before it, ``(B, D, n)``.
        driven (Tensor): What a chunk adds to the state, ``(B, D, n, F)``.
        backward (bool): Whether the last chunk comes first.

    Returns:
        Tensor: ``(B, D, n, F)``.
    """
    count = decays.shape[-1]
    if count <= GROUP:
        return _carry_at_once(decays, driven, backward)[0]
    decays, driven = _chunks(decays, GROUP), _chunks(driven, GROUP, dim=2)
    states, end, before = _carry_at_once(decays, driven, backward)  # (B, D, groups, GROUP, F)
    entering = _carry(decays.sum(-1).clamp(min=FORGOTTEN), end.squeeze(-2), backward)
    return torch.addcmul(states, before[..., None].exp(), entering[..., None, :]).flatten(2, 3)[:, :, :count]


def _carry_at_once(decays: Tensor, driven: Tensor, backward: bool) -> tuple[Tensor, Tensor, Tensor]:
    """States before each chunk, the one behind the last taken, and the logarithm of the decay up to each chunk."""
    coarse, fine = _running_sum(decays)  # up to the end of each chunk
    starts = F.pad(coarse[..., :-1], (1, 0)), F.pad(fine[..., :-1], (1, 0))
    places = torch.arange(decays.shape[-1], device=decays.device)
    if backward:  # rows for the chunk that is reached, columns for the one that is left
        exponents = starts[0][..., None, :] - coarse[..., :, None] + (starts[1][..., None, :] - fine[..., :, None])
        other, end = places[:, None] >= places, slice(0, 1)
        before = (coarse[..., -1:] - coarse) + (fine[..., -1:] - fine)
    else:
        exponents = starts[0][..., :, None] - coarse[..., None, :] + (starts[1][..., :, None] - fine[..., None, :])
        other, end = places[:, None] <= places, slice(-1, None)
        before = starts[0] + starts[1]
    states = exponents.masked_fill(other, -torch.inf).exp() @ driven
    last = torch.addcmul(driven[..., end, :], decays[..., end, None].exp(), states[..., end, :])
    return states, last, before


def _running_sum(x: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of ``x[..., :i + 1]`` as a coarse and a fine part, each ``(..., n)``.

    The coarse part sums multiples of a power of two, which single precision does without an error; the fine part is
    small and has all of the gradient.
    """
    rounded = _rounded(x)
    return rounded.cumsum(-1), (x - rounded).cumsum(-1)


def _rounded(x: Tensor) -> Tensor:
    quantum = QUANTUM * 2.0 ** max(0, math.ceil(math.log2(int(x.shape[-1]) / LENGTH)))
    return (x.detach() / quantum).round() * quantum


def _chunks(x: Tensor, size: int, dim: int = -1) -> Tensor:
    """``(..., T)`` to ``(..., ceil(T / size), size)``, filled up with zeros; likewise another dimension."""
    dim %= x.dim()
    length = x.shape[dim]
    if torch.jit.is_tracing() or length % size:
        x = F.pad(x, (*[0, 0] * (x.dim() - 1 - dim), 0, (size - length % size) % size))
    return x.reshape(*x.shape[:dim], -1, size, *x.shape[dim + 1 :])  # not unflatten, which traces its shape as constant


def _single(x: Tensor) -> Tensor:
    """At least in single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check(value: Tensor, forward: ScanInputs | None, backward: ScanInputs | None, chunk: int) -> None:
    if forward is None and backward is None:
        raise ValueError('forward=None and backward=None leave no direction to scan')
    if chunk < 1:
        raise ValueError(f'chunk={chunk} should be 1 or more')
    batch, heads, _, length = value.shape
    for name, inputs in (('forward', forward), ('backward', backward)):
        if inputs is None:
            continue
        width = inputs.query.shape[1]
        expected = [(batch, width, length), (batch, width, length), (batch, heads, length), (heads,)]
        shapes = [tuple(x.shape) for x in inputs]
        if shapes != expected:
            raise ValueError(
                f'query, key, step and rate of {name} have the shapes {shapes}, but should have {expected} beside '
                f'values of {tuple(value.shape)}'
            )
