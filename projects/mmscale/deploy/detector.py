"""What every exported detector has in common: pixels in, a fixed number of detections out.

    images (B, 3, H, W), 0..255 -- ImageInput -- network and post-processing --> boxes, scores, labels

An adapter is a child of :class:`ExportableDetector` that knows how one family of detectors ends. :func:`find_adapter`
picks one for a model; a project of yours adds its own with :func:`register_adapter`.

Shape shorthand in this module:
    B: batch, N: detections per image, H, W: size of the input
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .image_input import ImageInput

__all__ = ['ExportableDetector', 'find_adapter', 'register_adapter']

ADAPTERS: list[type['ExportableDetector']] = []


class ExportableDetector(nn.Module):
    """A detector as a function of one tensor. Children say which models they fit and how those detect.

    Args:
        model (nn.Module): A detector of MMDetection in eval mode.
        size (tuple[int, int], optional): Height and width that alone will come in. Known sizes become constants of the
            graph. Defaults to None: any.

    Raises:
        ValueError: If the model's data pre-processor does what a graph cannot.
    """

    family = ''
    """str: Which detectors these are, for the sentence that refuses others."""

    def __init__(self, model: nn.Module, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.model = model
        self.size = size
        self.image_input = ImageInput(model.data_preprocessor)

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether this adapter is for a model."""
        raise NotImplementedError

    def detect(self, inputs: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections, with score 0 where there is none.

        Args:
            inputs (Tensor): Normalised and padded, ``(B, 3, padded H, padded W)``.
            size (Tensor): W, H, W, H of the images before they were padded, ``(4,)``, to clip the boxes to.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Boxes ``(B, N, 4)``, scores ``(B, N)``, descending, and labels ``(B, N)``.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            images (Tensor): ``(B, 3, H, W)``, float32, 0 to 255, channels as the data pre-processor puts them out.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Boxes ``(B, N, 4)``, x1 y1 x2 y2 in pixels of the input; scores ``(B, N)``,
            descending; labels ``(B, N)``, int64. A row without a detection has box 0, score 0 and label -1.
        """
        boxes, scores, labels = self.detect(self.image_input(images), self.size_of(images))
        found = scores > 0
        boxes = torch.where(found[..., None], boxes, boxes.new_zeros(()))
        return boxes, scores, torch.where(found, labels, labels.new_full((), -1))

    def known(self, size: Sequence) -> tuple:
        """A height and width, as Python's numbers where the input's size is fixed."""
        return tuple(size) if self.size is None else tuple(int(side) for side in size)

    def size_of(self, x: Tensor) -> Tensor:
        """W, H, W, H of ``(B, C, H, W)``, ``(4,)`` in float32; part of the graph where the input's size is open."""
        height, width = (x.new_full((), side, dtype=torch.float32) for side in self.known(x.shape[-2:]))
        return torch.stack((width, height, width, height))


def take(x: Tensor, places: Tensor) -> Tensor:
    """Rows of ``(B, M, ...)`` by place ``(B, K)``: ``(B, K, ...)``."""
    if x.dim() == 2:
        return x.gather(1, places)
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def register_adapter(adapter: type[ExportableDetector]) -> type[ExportableDetector]:
    """Make an adapter known; of several that fit a model, the last one registered is taken.

    Args:
        adapter (type[ExportableDetector]): The adapter; the function serves as a decorator.
    """
    ADAPTERS.append(adapter)
    return adapter


def find_adapter(model: nn.Module, adapters: Sequence[type[ExportableDetector]] | None = None):
    """The adapter for a model.

    Args:
        model (nn.Module): A detector.
        adapters (Sequence[type[ExportableDetector]], optional): To choose from. Defaults to None: the registered ones.

    Returns:
        type[ExportableDetector]: The last one that fits.

    Raises:
        ValueError: If none does; it says which detectors can be exported.
    """
    adapters = ADAPTERS if adapters is None else adapters
    for adapter in reversed(adapters):
        if adapter.fits(model):
            return adapter
    known = ', and '.join(adapter.family for adapter in adapters)
    head = getattr(model, 'bbox_head', None) or getattr(model, 'roi_head', None)
    with_head = f' with {type(head).__name__}' if head is not None else ''
    raise ValueError(
        f'{type(model).__name__}{with_head} cannot be exported to ONNX; what can is {known} '
        '(mmscale.deploy.register_adapter adds others)'
    )
