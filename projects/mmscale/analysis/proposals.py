"""Proposals of two-stage detectors, whose number and sizes are chance when the weights are random."""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['noted_proposals', 'pinned_proposals']


@contextmanager
def noted_proposals(model: nn.Module) -> Iterator[list[int]]:
    """Notes how many proposals the region proposal network hands on, for each image; an empty list without one."""
    counts: list[int] = []

    def note(results: list) -> list:
        counts[:] = [len(result) for result in results]
        return results

    with _intercepted(model, note):
        yield counts


@contextmanager
def pinned_proposals(model: nn.Module, size: tuple[int, int], seed: int = 0) -> Iterator[int | None]:
    """Makes a two-stage detector's RoI head see the same proposals whatever its random RPN says.

    The RPN runs in full, its NMS included; then ``test_cfg.rpn.max_per_img`` fixed boxes replace its answer. Otherwise
    the number and the sizes of random proposals, hence RoIAlign's work, would differ between two configs by chance.

    Args:
        model (nn.Module): A detector.
        size (tuple[int, int]): Height and width of the network's input.
        seed (int): Of the boxes. Defaults to 0.

    Yields:
        int | None: Their number for each image; None for a model without an RPN, or with learned proposals, which carry
        features and do not depend on the image.
    """
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmengine.structures import InstanceData

    test_cfg = getattr(model, 'test_cfg', None) or {}
    number = (test_cfg.get('rpn') or {}).get('max_per_img')
    if not number or not isinstance(getattr(model, 'rpn_head', None), BaseDenseHead):
        yield None
        return
    boxes = random_boxes(number, size, seed)

    def pin(results: list) -> list:
        return [InstanceData(bboxes=boxes.to(result.bboxes), scores=result.bboxes.new_full((number,), 0.5),
                             labels=torch.zeros(number, dtype=torch.long, device=result.bboxes.device))
                for result in results]

    with _intercepted(model, pin):
        yield number


def random_boxes(number: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Boxes (N, 4) inside an image, their sides log-uniform between 16 pixels and the image's own.

    Args:
        number (int): How many.
        size (tuple[int, int]): Height and width of the image.
        seed (int): Of the generator. Defaults to 0.
    """
    generator = torch.Generator().manual_seed(seed)
    sides = torch.tensor(size[::-1], dtype=torch.float32)
    least = sides.clamp(max=16)
    extent = least * (sides / least) ** torch.rand(number, 2, generator=generator)
    start = (sides - extent) * torch.rand(number, 2, generator=generator)
    return torch.cat([start, start + extent], dim=1)


@contextmanager
def _intercepted(model: nn.Module, handle: Callable[[list], list]) -> Iterator[None]:
    """Passes what the RPN predicts through ``handle``, which must not mind to be asked twice.

    MMDetection's detectors call either method, and the first calls the second.
    """
    rpn_head = getattr(model, 'rpn_head', None)
    names = [name for name in ('predict', 'predict_by_feat') if hasattr(rpn_head, name)]

    def wrap(method: Callable) -> Callable:
        def wrapped(*args: Any, **kwargs: Any) -> list:
            return handle(method(*args, **kwargs))
        return wrapped

    try:
        for name in names:
            setattr(rpn_head, name, wrap(getattr(rpn_head, name)))
        yield
    finally:
        for name in names:
            vars(rpn_head).pop(name, None)
