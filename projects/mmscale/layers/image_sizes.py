"""How a box loss learns the size of the image that each of its rows comes from.

MMDetection calls ``loss(pred, target, weight)`` with the rows of all images together, and says nothing about images.
A head that knows better opens a context around its parent's code, and nothing is copied:

- ``image_sizes(sizes, rows='blocks')``: the rows are B equal blocks in the images' order, as where every anchor or
  query has a row (RetinaNet, DETR, RT-DETR).
- ``image_sizes(sizes, rows='stated')``: the head selects rows, and says by :func:`state_rows` which image each one of
  them comes from (positives in FCOS, ATSS, Faster R-CNN).

The loss asks by :func:`row_image_sizes`. Nothing is guessed: a number of rows that does not fit is an error. What is
stated ends with the context, by an exception, too; it belongs to one thread.

Letters: B images, N rows of the loss.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ['image_sizes', 'row_image_sizes', 'sizes_of_images', 'state_rows']

RULES = ('blocks', 'stated')


@dataclass(frozen=True)
class _Batch:
    """What is known at present."""

    sizes: Tensor  # (B, 2)
    rows: str
    images: Tensor | None = None  # (N,)
    unit: Tensor | float = 1.0


_BATCH: ContextVar[_Batch | None] = ContextVar('image_sizes', default=None)


@contextmanager
def image_sizes(sizes: Tensor | Sequence[Sequence[float]], rows: str) -> Iterator[None]:
    """Within it, a box loss knows its images' sizes.

    Args:
        sizes (Tensor or Sequence): Width and height of every image in pixels, ``(B, 2)``.
        rows (str): How the rows of the loss belong to the images, one of:

            - ``'blocks'``: B equal blocks in the images' order.
            - ``'stated'``: As :func:`state_rows` says, before the loss is called.

    Raises:
        ValueError: If ``rows`` is another, or the sizes are not B pairs of positive numbers.

    Example:
        >>> with image_sizes([(640, 480), (320, 200)], rows='blocks'):
        ...     row_image_sizes(4)
        tensor([[640., 480.],
                [640., 480.],
                [320., 200.],
                [320., 200.]])
    """
    if rows not in RULES:
        raise ValueError(f"rows={rows!r} of image_sizes should be 'blocks' or 'stated'")
    sizes = torch.as_tensor(sizes, dtype=torch.float, device='cpu')
    if sizes.dim() != 2 or sizes.shape[1] != 2 or not len(sizes):
        raise ValueError(f'sizes of image_sizes have the shape {tuple(sizes.shape)}, but should have (B, 2), B > 0')
    if not ((sizes > 0) & sizes.isfinite()).all():
        raise ValueError(f'sizes={sizes.tolist()} of image_sizes should be positive widths and heights')
    token = _BATCH.set(_Batch(sizes, rows))
    try:
        yield
    finally:
        _BATCH.reset(token)


def state_rows(images: Tensor, unit: Tensor | float = 1.0) -> None:
    """Say which image each row of the next call of the loss comes from; a later statement replaces an earlier one.

    Without an open context it says nothing, so that a head's targets can be asked for alone.

    Args:
        images (Tensor): Index of the image, ``(N,)``, from 0 to B - 1.
        unit (Tensor or float): Pixels per unit of the rows' boxes, for a head that compares boxes in units of a
            level's stride; ``(N,)`` or one number. Defaults to 1.0.

    Raises:
        ValueError: If the open context has another rule, or the units are not one or N.

    Example:
        >>> with image_sizes([(640, 480), (320, 200)], rows='stated'):
        ...     state_rows(torch.tensor([1, 0]), unit=8)
        ...     row_image_sizes(2)
        tensor([[40., 25.],
                [80., 60.]])
    """
    batch = _BATCH.get()
    if batch is None:
        return
    if batch.rows != 'stated':
        raise ValueError(f"state_rows needs image_sizes(..., rows='stated') around it, not rows='{batch.rows}'")
    if isinstance(unit, Tensor) and unit.numel() not in (1, len(images)):
        raise ValueError(f'state_rows got {len(images)} rows and {unit.numel()} units')
    _BATCH.set(replace(batch, images=images, unit=unit))


def row_image_sizes(count: int, device: torch.device | str = 'cpu') -> Tensor:
    """Width and height of the image that each row comes from, in the unit of the rows' boxes.

    Args:
        count (int): N, rows that the loss has.
        device (torch.device or str): Where the result should be. Defaults to ``'cpu'``.

    Returns:
        Tensor: ``(N, 2)``.

    Raises:
        ValueError: If no context is open, no rows were stated in one that asks for it, or N does not fit.
    """
    batch = _BATCH.get()
    if batch is None:
        raise ValueError(
            'the loss needs the size of the image that each box is in, and this head does not tell it: use '
            'mmscale.RTDETRHead, mmscale.SizeAwareRetinaHead, mmscale.SizeAwareFCOSHead, mmscale.SizeAwareRoIHead or '
            'mmscale.SizeAwareYOLOv8Head (or ...v10Head), make your head size-aware (docs/rf_mpdiou.md), or pass '
            'image_sizes= to the loss'
        )
    sizes = batch.sizes.to(device)
    if batch.rows == 'blocks':
        if count % len(sizes):
            raise ValueError(f'the loss has {count} rows, which are not equal blocks of {len(sizes)} images')
        return sizes.repeat_interleave(count // len(sizes), dim=0)
    if batch.images is None:
        raise ValueError(f'the loss has {count} rows, but the head did not say by state_rows which images they are in')
    if len(batch.images) != count:
        raise ValueError(f'the loss has {count} rows, but the head stated the images of {len(batch.images)}')
    unit = torch.as_tensor(batch.unit, dtype=torch.float, device=device).reshape(-1, 1)
    return sizes[batch.images.to(device)] / unit


def sizes_of_images(metas: Sequence[dict]) -> list[tuple[int, int]]:
    """Width and height of every image as it is without padding.

    Args:
        metas (Sequence[dict]): MMDetection's meta information, with ``img_shape`` (height, width).

    Example:
        >>> sizes_of_images([dict(img_shape=(480, 640))])
        [(640, 480)]
    """
    return [(meta['img_shape'][1], meta['img_shape'][0]) for meta in metas]
