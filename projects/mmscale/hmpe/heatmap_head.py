"""The head that predicts the heatmaps, and the gradients that teach it.

Paper: "HMPE: HeatMap Embedding for Efficient Transformer-Based Small Object Detection" (Zeng et al., 2025), section
3.1, fig. 2. The paper's maps are gradients of losses, which need a ground truth and a backward pass: neither exists at
inference. So (ours; the authors' later text, "Learning Where to Embed", says the same) the gradients' maps exist in
training only, and a small head learns to predict them:

    level -- 1x1, norm --> A --+-- 3x3 depthwise, 1x1 ----> H_class, H_bbox --+-- gate --> H_mixed -- > tau --> mask
                               |                              ^ learns        |
                               |                              |               v
             (training only)   +-- classes, boxes -- d/dA -- maps          MOHFE, HIDQ

The classes and boxes of a position are two branches of two 1x1 convolutions. A position belongs to the object that it
lies in (of several the smallest), and in every level the position nearest to an object's centre does, too; no other has
a class, or a box to learn.

Shape shorthand in this module:
    B: batch, C: channels of the encoder, D: channels of A, K: classes, L: levels, H, W: size of a level
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.structures import OptSampleList, SampleList
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers import full_precision, init_as_torch

from .heatmaps import class_heatmap, even_out

__all__ = ['HeatmapHead', 'Heatmaps', 'Supervision', 'assign_positions']

SMALLEST_DISTANCE = 0.1  # of a position to a side of its box, over the stride


@dataclass
class Supervision:
    """What the heatmaps are trained with; each a list with one tensor per level.

    Attributes:
        logits (list[Tensor]): Of H_class and H_bbox as predicted, ``(B, 2, H, W)``.
        targets (list[Tensor]): H_class and H_bbox by gradients, ``(B, 2, H, W)``.
        scores (list[Tensor]): Class logits, ``(B, K, H, W)``.
        boxes (list[Tensor]): Logarithms of the distances to a box's sides, ``(B, 4, H, W)``.
        labels (list[Tensor]): Class of a position's object, or -1, ``(B, H, W)``.
        box_targets (list[Tensor]): As ``boxes``.
    """

    logits: list[Tensor]
    targets: list[Tensor]
    scores: list[Tensor]
    boxes: list[Tensor]
    labels: list[Tensor]
    box_targets: list[Tensor]


@dataclass
class Heatmaps:
    """The maps of every level, finest first, ``(B, 1, H, W)`` each, from 0 to 1.

    Attributes:
        classes (list[Tensor]): H_class.
        boxes (list[Tensor]): H_bbox.
        mixed (list[Tensor]): H_mixed, eq. 4.
        mask (list[Tensor]): Where H_mixed is above tau, boolean, eq. 6.
        supervision (Supervision, optional): What the head's loss needs, in training.
    """

    classes: list[Tensor]
    boxes: list[Tensor]
    mixed: list[Tensor]
    mask: list[Tensor]
    supervision: Supervision | None = None


class HeatmapHead(BaseModule):
    """Predicts the heatmaps; the detector builds it from its ``heatmap_head`` options.

    Args:
        num_classes (int): K.
        in_channels (int): C. Defaults to 256.
        num_levels (int): L. Defaults to 3.
        channels (int): D. Defaults to 64.
        heatmap (str): Which maps the detector works with in training, ``'predicted'`` or ``'gradient'``; at inference
            there are predicted ones only. Defaults to ``'predicted'``.
        tau (float): Threshold of the mask. Eq. 6 says 0, of a map of gradients; a predicted one is never quite 0: its
            target has a mean of about 0.2 outside of objects. Defaults to 0.3.
        gate (bool): Whether lambda of eq. 4 is learned, from the mean of A over the level. Otherwise it is one half,
            as it has to be where it would get no gradient. Defaults to True.
        norm_cfg (dict, optional): Normalisation. Defaults to None, ``dict(type='BN')``.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None: PyTorch's own;
            maps and gate start near one half, so that every position is hot, classes at 1 %.

    Raises:
        ValueError: If ``heatmap`` is another, or ``tau`` is negative or not below 1.

    Example:
        >>> head = HeatmapHead(num_classes=3, in_channels=8, num_levels=2, channels=4).eval()
        >>> heat = head([torch.rand(1, 8, 6, 6), torch.rand(1, 8, 3, 3)])
        >>> [tuple(x.shape) for x in heat.mixed]
        [(1, 1, 6, 6), (1, 1, 3, 3)]
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        num_levels: int = 3,
        channels: int = 64,
        heatmap: str = 'predicted',
        tau: float = 0.3,
        gate: bool = True,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if heatmap not in ('predicted', 'gradient'):
            raise ValueError(f"heatmap={heatmap!r} must be 'predicted' or 'gradient'")
        if not 0 <= tau < 1:
            raise ValueError(f'tau={tau} must be at least 0 and below 1')
        self.num_classes = num_classes
        self.heatmap = heatmap
        self.tau = tau
        norm_cfg = norm_cfg or dict(type='BN')
        self.trunks = nn.ModuleList(
            [ConvModule(in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None) for _ in range(num_levels)]
        )
        self.predictor = nn.Sequential(
            ConvModule(channels, channels, 3, padding=1, groups=channels, norm_cfg=norm_cfg, act_cfg=dict(type='SiLU')),
            nn.Conv2d(channels, 2, 1),
        )
        self.gate = nn.Linear(channels, 1) if gate else None
        self.class_branch = _branch(channels, num_classes)
        self.box_branch = _branch(channels, 4)

    def init_weights(self) -> None:
        """PyTorch's own, but for the last layers."""
        init_as_torch(self)
        for layer in (self.predictor[-1], self.gate):
            if layer is not None:
                nn.init.zeros_(layer.bias)
        nn.init.constant_(self.class_branch[-1].bias, -4.595)  # a probability of 1 %
        super().init_weights()

    def forward(self, maps: Sequence[Tensor], batch_data_samples: OptSampleList = None) -> Heatmaps:
        """Heat the levels.

        Args:
            maps (Sequence[Tensor]): ``(B, C, H, W)`` per level, finest first.
            batch_data_samples (list[DetDataSample], optional): Ground truth, in training.

        Returns:
            Heatmaps: Predicted ones, or in training with ``heatmap='gradient'`` those of the gradients; with the
            supervision in training.
        """
        activations = [trunk(x) for trunk, x in zip(self.trunks, maps, strict=True)]
        with full_precision(maps[0]):  # in half precision many positions would be equally hot
            logits = [self.predictor(x.float()) for x in activations]
        supervision = None
        if self.training and batch_data_samples is not None:
            supervision = self.supervise(activations, logits, batch_data_samples)
        by_gradient = supervision is not None and self.heatmap == 'gradient'
        pairs = supervision.targets if by_gradient else [x.sigmoid() for x in logits]
        classes, boxes = [x[:, :1] for x in pairs], [x[:, 1:] for x in pairs]
        mixed = [
            share * h_class + (1 - share) * h_bbox
            for share, h_class, h_bbox in zip(map(self.share, activations), classes, boxes, strict=True)
        ]
        return Heatmaps(classes, boxes, mixed, [x > self.tau for x in mixed], supervision)

    def share(self, activations: Tensor) -> Tensor | float:
        """Lambda of eq. 4 for every image of a level, ``(B, 1, 1, 1)``."""
        if self.gate is None:
            return 0.5
        return self.gate(activations.mean((-2, -1))).sigmoid()[..., None, None]

    def supervise(self, activations: list[Tensor], logits: list[Tensor], samples: SampleList) -> Supervision:
        """The gradients' maps of a batch with a ground truth.

        Args:
            activations (list[Tensor]): A of every level, ``(B, D, H, W)``, part of the graph.
            logits (list[Tensor]): Of the predicted maps, ``(B, 2, H, W)``.
            samples (list[DetDataSample]): Boxes, labels and the padded size.

        Returns:
            Supervision: See there.
        """
        levels = []
        for x, assigned in zip(activations, assign_positions(samples, activations), strict=True):
            with full_precision(x):
                levels.append(self._supervise_level(x.float(), *assigned))
        targets, scores, boxes, labels, box_targets = map(list, zip(*levels, strict=True))
        return Supervision(logits, targets, scores, boxes, labels, box_targets)

    def _supervise_level(
        self, x: Tensor, owners: Tensor, labels: Tensor, box_targets: Tensor
    ) -> tuple[Tensor, ...]:
        """One backward pass through each of the two branches, down to A."""
        if not x.requires_grad:  # everything below is frozen
            x = x.detach().requires_grad_()
        with torch.enable_grad():
            scores, boxes = self.class_branch(x), self.box_branch(x)
            own = scores.gather(1, labels.clamp(min=0)[:, None])[:, 0]  # (B, H, W)
            losses = F.smooth_l1_loss(boxes, box_targets, reduction='none').sum(1)
            inside = labels >= 0
            maps = []
            for values, groups, count in ((own, labels, self.num_classes), (losses, inside.long() - 1, 1)):
                (gradient,) = torch.autograd.grad((values * inside).sum(), x, retain_graph=True)
                heat = class_heatmap(x.detach(), gradient, values.detach(), groups, count)
                maps.append(even_out(heat, owners))
        return torch.stack(maps, dim=1), scores, boxes, labels, box_targets


def assign_positions(samples: SampleList, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Which object a position belongs to: the smallest that it lies in, or whose centre it is nearest to.

    Args:
        samples (list[DetDataSample]): With ``gt_instances`` and the padded batch's size.
        maps (Sequence[Tensor]): ``(B, *, H, W)`` per level, for the sizes.

    Returns:
        list[tuple[Tensor, Tensor, Tensor]]: For every level the objects' numbers and labels, -1 for none, ``(B, H, W)``
        each, and logarithms of the distances to the box's left, upper, right and lower side over the level's stride,
        ``(B, 4, H, W)``, at least that of 0.1, and 0 where there is no object.
    """
    levels = []
    for x in maps:
        height, width = x.shape[-2:]
        images = [_assign_image(sample, height, width, x.device) for sample in samples]
        levels.append(tuple(torch.stack(part) for part in zip(*images, strict=True)))
    return levels


def _assign_image(sample, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    boxes, labels = sample.gt_instances.bboxes.to(device).float(), sample.gt_instances.labels.to(device)
    if not len(boxes):
        none = torch.full((height, width), -1, device=device)
        return none, none, torch.zeros(4, height, width, device=device)
    full_height, full_width = sample.metainfo.get('batch_input_shape', sample.metainfo['img_shape'])[:2]
    cell = boxes.new_tensor((full_width / width, full_height / height)).repeat(2)
    boxes = boxes / cell  # in cells: position (i, j) is at (j + 0.5, i + 0.5)
    x = torch.arange(width, device=device)[None] + 0.5
    y = torch.arange(height, device=device)[:, None] + 0.5
    left, top, right, bottom = boxes[:, :, None, None].unbind(1)
    distances = torch.stack(torch.broadcast_tensors(x - left, y - top, right - x, bottom - y), dim=1)  # (G, 4, H, W)
    owned = distances.amin(1) > 0
    columns = boxes[:, 0::2].mean(1).floor().long().clamp(0, width - 1)
    rows = boxes[:, 1::2].mean(1).floor().long().clamp(0, height - 1)
    owned[torch.arange(len(boxes), device=device), rows, columns] = True
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None, None].expand_as(owned)
    smallest, owner = areas.masked_fill(~owned, torch.inf).min(0)
    found = smallest < torch.inf
    own = distances.gather(0, owner[None, None].expand(1, 4, -1, -1))[0].clamp(min=SMALLEST_DISTANCE).log()
    return owner.masked_fill(~found, -1), labels[owner].masked_fill(~found, -1), own * found


def _branch(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.SiLU(), nn.Conv2d(channels, outputs, 1))
