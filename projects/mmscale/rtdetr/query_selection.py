"""The encoder's positions as proposals: where the decoder's queries come from.

Paper: "DETRs Beat YOLOs on Real-time Object Detection" (Zhao et al., CVPR 2024), section 4.3. The selection itself is
by class score; that this score says how well the box fits, too, is what the training's IoU-aware loss sees to
(:mod:`.losses`).

Shape shorthand in this module:
    S: positions of all levels
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ['proposal_anchors']

GRID_SIZE = 0.05  # side of a proposal of stride 8, over that of the image
BORDER = 0.01


def proposal_anchors(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device | str = 'cpu',
    at_border: bool = False,
) -> tuple[Tensor, Tensor]:
    """One square box per position, centred on it, its side in proportion to the level's stride.

    Args:
        shapes (Sequence[tuple[int, int]]): Height and width of every level.
        strides (Sequence[int]): Stride of every level, in pixels of the input. The side is 0.05 of the image's for
            stride 8 and doubles with the stride, as in the official code, whose first level has stride 8.
        device (torch.device or str): Where the results lie. Defaults to ``'cpu'``.
        at_border (bool): Whether a box beyond the border (below) is drawn back to it and used. Defaults to False, as in
            the official code.

    Returns:
        tuple[Tensor, Tensor]: Logits of the boxes (cx, cy, w, h), ``(1, S, 4)``, infinite where a box is not used, and
        which are used, ``(1, S, 1)`` boolean: those with all four numbers from 0.01 to 0.99.

    Example:
        >>> anchors, valid = proposal_anchors([(2, 4)], [8])
        >>> anchors.sigmoid()[0, 0]
        tensor([0.1250, 0.2500, 0.0500, 0.0500])
    """
    shapes = tuple(tuple(shape) for shape in shapes)
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # the size is part of the graph
        return _proposal_anchors(shapes, tuple(strides), device, at_border)
    return _known_anchors(shapes, tuple(strides), str(device), at_border)


def _proposal_anchors(shapes, strides, device, at_border) -> tuple[Tensor, Tensor]:
    levels = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y = ((torch.arange(height, device=device) + 0.5) / height)[:, None].expand(height, width)
        x = ((torch.arange(width, device=device) + 0.5) / width)[None].expand(height, width)
        side = torch.full_like(x, GRID_SIZE * stride / 8)
        levels.append(torch.stack((x, y, side, side), dim=-1).flatten(0, 1))
    boxes = torch.cat(levels)[None].float()
    if at_border:
        boxes = boxes.clamp(BORDER, 1 - BORDER)
        return (boxes / (1 - boxes)).log(), torch.ones_like(boxes[..., :1], dtype=torch.bool)
    valid = ((boxes > BORDER) & (boxes < 1 - BORDER)).all(dim=-1, keepdim=True)
    logits = (boxes / (1 - boxes)).log()
    return logits.masked_fill(~valid, float('inf')), valid


# Sizes repeat from image to image; training at many scales sees a few dozen.
_known_anchors = lru_cache(maxsize=64)(_proposal_anchors)
