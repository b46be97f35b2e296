"""Partition and Combine: one long sequence as P interleaved short ones, and back.

Paper: "Cross-Layer Feature Self-Attention Module for Multi-Scale Object Detection" (Xie et al., arXiv 2510.14726),
section 3.2, eqs. 2 and 4, fig. 2. Part p of P = 2 takes every second token:

    tokens   0 1 2 3 4 5 6 7   --Partition-->   0 2 4 6   --Combine-->   0 1 2 3 4 5 6 7
                                                1 3 5 7

so each part sees the whole image at every level, at 1 / P of its points, and attention costs 1 / P.

From the paper: the interleaving, and that a length which P does not divide is interpolated. Ours: linear interpolation
along the tokens with the first and the last one kept where they are (align_corners), so that what is linear along them
comes back unchanged from :func:`stretch` and :func:`shrink`. The places are whole numbers here: PyTorch's and ONNX
Runtime's own interpolation count them in single precision, and are some ten-thousandths of a token off at 5,000.

Shape shorthand in this module:
    B: batch, N: tokens, P: parts, C: channels
"""

import torch
from torch import Tensor

__all__ = ['combine', 'partition', 'shrink', 'stretch']


def stretch(tokens: Tensor, num_parts: int) -> Tensor:
    """Interpolate a sequence to the next length that ``num_parts`` divides.

    Args:
        tokens (Tensor): ``(B, N, C)``.
        num_parts (int): P.

    Returns:
        Tensor: ``(B, ceil(N / P) * P, C)``; the sequence itself where P divides N.

    Example:
        >>> stretch(torch.tensor([0.0, 1.0, 2.0])[None, :, None], 2).flatten()
        tensor([0.0000, 0.6667, 1.3333, 2.0000])
    """
    if num_parts == 1:
        return tokens
    length = tokens.shape[1]
    return shrink(tokens, (length + num_parts - 1) // num_parts * num_parts)


def shrink(tokens: Tensor, length: int) -> Tensor:
    """Interpolate a sequence to a length; the way back from :func:`stretch`.

    Args:
        tokens (Tensor): ``(B, N, C)``.
        length (int): Tokens of the result.

    Returns:
        Tensor: ``(B, length, C)``; the sequence itself where it has this length.

    Example:
        >>> shrink(stretch(torch.tensor([0.0, 1.0, 2.0])[None, :, None], 2), 3).flatten()
        tensor([0., 1., 2.])
    """
    # A traced graph may meet other sizes than the one that it was traced with: there the interpolation stays, which
    # changes nothing where the lengths are equal.
    if not torch.jit.is_tracing() and tokens.shape[1] == length:
        return tokens
    last, new_last = tokens.shape[1] - 1, length - 1 + (length == 1)
    places = torch.arange(length, device=tokens.device) * last  # in steps of 1 / new_last
    left = torch.div(places, new_last, rounding_mode='floor')
    right = (left + 1).clamp(max=last)
    share = (places - left * new_last).to(torch.promote_types(tokens.dtype, torch.float32)) / new_last
    share = share.to(tokens.dtype)[:, None]
    return torch.lerp(tokens.index_select(1, left), tokens.index_select(1, right), share)


def partition(tokens: Tensor, num_parts: int) -> Tensor:
    """Deal a sequence out to P parts in turn (eq. 2).

    Args:
        tokens (Tensor): ``(B, N, C)``, N a multiple of P.
        num_parts (int): P.

    Returns:
        Tensor: ``(B * P, N / P, C)``; the parts of an image follow each other.

    Example:
        >>> partition(torch.arange(6)[None, :, None], 2).squeeze(2)
        tensor([[0, 2, 4],
                [1, 3, 5]])
    """
    batch, length, channels = tokens.shape
    dealt = tokens.reshape(batch, length // num_parts, num_parts, channels)
    return dealt.transpose(1, 2).reshape(batch * num_parts, length // num_parts, channels)


def combine(parts: Tensor, num_parts: int) -> Tensor:
    """Put the tokens of P parts back in their order (eq. 4); the inverse of :func:`partition`.

    Args:
        parts (Tensor): ``(B * P, N / P, C)``.
        num_parts (int): P.

    Returns:
        Tensor: ``(B, N, C)``.

    Example:
        >>> combine(partition(torch.arange(6)[None, :, None], 2), 2).flatten()
        tensor([0, 1, 2, 3, 4, 5])
    """
    rows, length, channels = parts.shape
    dealt = parts.reshape(rows // num_parts, num_parts, length, channels)
    return dealt.transpose(1, 2).reshape(rows // num_parts, num_parts * length, channels)
