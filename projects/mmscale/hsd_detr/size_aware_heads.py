"""MMDetection's heads, which tell RF-MPDIoU the size of each box's image.

The paper divides corner distances by "the width and height of the input image" (HSD-DETR, section 3.5, eq. 20). Ours:
that is each image's own size (``img_shape``), not that of the batch it is padded to, as far as the head knows it.

Mixins for any head, and four heads that are made of them. A mixin adds only the statement which image a row comes
from; targets, decoding and losses stay the parent's. Which mixin depends on the rows that the parent's code gives to
its box loss:

- :class:`SizeAwareMixin`: every anchor or query, image after image. RetinaNet, RPN, DETR, Deformable DETR, DINO.
- :class:`SizeAwarePositivesMixin`: the positives of one level. ATSS, GFL.
- :class:`SizeAwareRoIMixin`: the positive RoIs. Faster and Cascade R-CNN.

They stand here and not in ``layers``, since no other paper has a loss that asks for the image's size; the context
that they open is in ``layers`` (:mod:`mmscale.layers.image_sizes`), since RT-DETR's head opens it, too.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from mmdet.models.dense_heads import FCOSHead, RetinaHead
from mmdet.models.roi_heads import StandardRoIHead
from torch import Tensor, nn

from mmscale.layers.image_sizes import image_sizes, sizes_of_images, state_rows
from mmscale.registry import MODELS

from .rf_mpdiou import RFMPDIoULoss

__all__ = [
    'SizeAwareFCOSHead',
    'SizeAwareMixin',
    'SizeAwarePositivesMixin',
    'SizeAwareRetinaHead',
    'SizeAwareRoIHead',
    'SizeAwareRoIMixin',
]


class SizeAwareMixin:
    """For a dense head whose box loss has a row for every anchor or query: put it before the head in a class.

    A child of another rule sets ``loss_rows``, see :func:`~mmscale.layers.image_sizes.image_sizes`.

    Raises:
        ValueError: If the box loss is RFMPDIoULoss and the head compares offsets from anchors, not boxes.
    """

    loss_rows = 'blocks'

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        _check_boxes(self)

    def loss_by_feat(self, *args, **kwargs) -> dict[str, Tensor]:
        """The parent's, which knows the images' sizes meanwhile."""
        metas = _arguments(super().loss_by_feat, args, kwargs)['batch_img_metas']
        with image_sizes(sizes_of_images(metas), rows=self.loss_rows):
            return super().loss_by_feat(*args, **kwargs)


class SizeAwarePositivesMixin(SizeAwareMixin):
    """For a dense head whose box loss has a row for every positive of one level: put it before the head in a class.

    Positives are the ``labels`` (B, anchors) that ``loss_by_feat_single`` gets, from 0 to K - 1.
    """

    loss_rows = 'stated'

    def loss_by_feat_single(self, *args, **kwargs) -> tuple[Tensor, ...]:
        """The parent's, after it is stated which image each positive comes from."""
        arguments = _arguments(super().loss_by_feat_single, args, kwargs)
        images, _ = torch.where(_positive(arguments['labels'], self.num_classes))
        state_rows(images, self.box_unit(arguments))
        return super().loss_by_feat_single(*args, **kwargs)

    def box_unit(self, arguments: dict[str, Any]) -> float:
        """Pixels per unit of the boxes that the parent's box loss gets, 1 unless a child says otherwise.

        Args:
            arguments (dict): What ``loss_by_feat_single`` was called with, by name.
        """
        return 1.0


class SizeAwareRoIMixin:
    """For a RoI head with MMDetection's ``bbox_loss``: put it before the head in a class.

    Raises:
        ValueError: If the box loss is RFMPDIoULoss and ``bbox_head`` compares offsets from proposals, not boxes.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.with_bbox:
            for head in self.bbox_head if isinstance(self.bbox_head, nn.ModuleList) else [self.bbox_head]:
                _check_boxes(head)

    def loss(self, *args, **kwargs) -> dict[str, Tensor]:
        """The parent's, which knows the images' sizes meanwhile."""
        samples = _arguments(super().loss, args, kwargs)['batch_data_samples']
        with image_sizes(sizes_of_images([sample.metainfo for sample in samples]), rows='stated'):
            return super().loss(*args, **kwargs)

    def bbox_loss(self, *args, **kwargs) -> dict[str, Any]:
        """The parent's, after it is stated which image each positive RoI comes from."""
        results = _arguments(super().bbox_loss, args, kwargs)['sampling_results']
        counts = torch.tensor([len(result.pos_priors) for result in results])
        state_rows(torch.arange(len(results)).repeat_interleave(counts))
        return super().bbox_loss(*args, **kwargs)


@MODELS.register_module()
class SizeAwareRetinaHead(SizeAwareMixin, RetinaHead):
    """MMDetection's ``RetinaHead``, whose box loss may be RFMPDIoULoss; it then needs ``reg_decoded_bbox=True``."""


@MODELS.register_module()
class SizeAwareFCOSHead(SizeAwareMixin, FCOSHead):
    """MMDetection's ``FCOSHead``, whose box loss may be RFMPDIoULoss.

    Its rows are the positives of all levels: level by level, and image by image in a level. With ``norm_on_bbox`` the
    sides of a level's boxes are in units of its stride, and so is the image's size.
    """

    loss_rows = 'stated'

    def get_targets(self, points: list[Tensor], batch_gt_instances: list) -> tuple[list[Tensor], list[Tensor]]:
        """The parent's; which image each positive comes from is stated on the way."""
        labels, box_targets = super().get_targets(points, batch_gt_instances)
        images, strides = [], []
        for level, stride in zip(labels, self.strides, strict=True):
            places, _ = torch.where(_positive(level.view(len(batch_gt_instances), -1), self.num_classes))
            images.append(places)
            strides.append(torch.full_like(places, stride, dtype=torch.float))
        state_rows(torch.cat(images), torch.cat(strides) if self.norm_on_bbox else 1.0)
        return labels, box_targets


@MODELS.register_module()
class SizeAwareRoIHead(SizeAwareRoIMixin, StandardRoIHead):
    """MMDetection's ``StandardRoIHead``; with RFMPDIoULoss its ``bbox_head`` needs ``reg_decoded_bbox=True``."""


def _positive(labels: Tensor, num_classes: int) -> Tensor:
    return (labels >= 0) & (labels < num_classes)


def _arguments(method: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the method would be called with, by name."""
    return inspect.signature(method).bind(*args, **kwargs).arguments


def _check_boxes(head: nn.Module) -> None:
    """Refuse RF-MPDIoU of offsets; a head without the argument always compares boxes."""
    if isinstance(getattr(head, 'loss_bbox', None), RFMPDIoULoss) and not getattr(head, 'reg_decoded_bbox', True):
        raise ValueError(
            f'loss_bbox of {type(head).__name__} is RFMPDIoULoss, which compares boxes, but with '
            'reg_decoded_bbox=False the head compares offsets; set reg_decoded_bbox=True'
        )
