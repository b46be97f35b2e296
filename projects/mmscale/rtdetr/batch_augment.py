"""Training at many scales: the whole batch is resized, to another size each time.

Paper: "DETRs Beat YOLOs on Real-time Object Detection" (Zhao et al., CVPR 2024), section 5.1; the sizes stand in the
official configs (``multi_scale``), 640 among them three times.
"""

import random
from collections.abc import Sequence

import torch.nn.functional as F
from mmdet.structures import SampleList
from torch import Tensor, nn

from mmscale.registry import MODELS

__all__ = ['BatchResizeChoice']


@MODELS.register_module()
class BatchResizeChoice(nn.Module):
    """Resize a batch, images and boxes, to one of several sizes: an entry of ``data_preprocessor.batch_augments``.

    MMDetection's ``BatchSyncRandomResize`` draws from a range, every tenth step by default, and keeps the batch's
    shape; RT-DETR draws from a list at every step. The size is drawn from Python's generator, which all processes of a
    run seed alike (unless ``randomness.diff_rank_seed`` is set), so none of them waits for one with a larger batch.

    Args:
        sizes (Sequence[int or Sequence[int]]): Sides of a square, or heights and widths; one that is listed twice is
            drawn twice as often.
        mode (str): Interpolation, ``'nearest'`` or ``'bilinear'``. Defaults to ``'nearest'``, as in the official code.

    Raises:
        ValueError: If a size is not one or two whole numbers above 0, or the mode is unknown.

    Example:
        >>> import torch
        >>> BatchResizeChoice([64])(torch.rand(2, 3, 32, 32), [])[0].shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(self, sizes: Sequence[int | Sequence[int]], mode: str = 'nearest') -> None:
        super().__init__()
        self.sizes = [_height_and_width(size) for size in sizes]
        if not self.sizes:
            raise ValueError(f'sizes={sizes!r} leaves BatchResizeChoice nothing to choose from')
        if mode not in ('nearest', 'bilinear'):
            raise ValueError(f"mode={mode!r} of BatchResizeChoice must be 'nearest' or 'bilinear'")
        self.mode = mode

    def forward(self, inputs: Tensor, data_samples: SampleList) -> tuple[Tensor, SampleList]:
        """Resize.

        Args:
            inputs (Tensor): Images, padded to one size: ``(B, 3, H, W)``.
            data_samples (list[DetDataSample]): Their boxes, in pixels, and sizes; changed in place.

        Returns:
            tuple[Tensor, list[DetDataSample]]: Images ``(B, 3, height, width)`` and the samples, whose
            ``batch_input_shape``, ``pad_shape`` and ``img_shape`` follow.
        """
        size = random.choice(self.sizes)
        old = tuple(inputs.shape[-2:])
        if size == old:
            return inputs, data_samples
        factors = size[0] / old[0], size[1] / old[1]
        for sample in data_samples:
            for name in ('gt_instances', 'ignored_instances'):
                if name in sample:
                    boxes = sample.get(name).bboxes
                    sample.get(name).bboxes = boxes * boxes.new_tensor((factors[1], factors[0])).repeat(2)
            sizes = {key: _scaled(sample.metainfo[key], factors) for key in ('img_shape', 'pad_shape')}
            sample.set_metainfo({**sizes, 'batch_input_shape': size})
        return F.interpolate(inputs, size=size, mode=self.mode), data_samples


def _scaled(shape: Sequence[int], factors: tuple[float, float]) -> tuple[int, int]:
    return tuple(round(side * factor) for side, factor in zip(shape[:2], factors, strict=True))


def _height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f'a size of BatchResizeChoice must be a side or a height and a width, but is {size!r}')
    return sides
