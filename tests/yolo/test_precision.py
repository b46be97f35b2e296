"""Half precision: losses and boxes of the YOLOs are computed in float32, where a pixel is a pixel."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmscale.registry import HAS_MMYOLO

from .small import ABSENT, CLASSES, RF_MPDIOU, build, head, head_module

if not HAS_MMYOLO:
    pytest.skip(ABSENT, allow_module_level=True)

SIZE = 640
STRIDES = (8, 16, 32)
CORNERS = torch.tensor([[600.0, 600], [560, 303], [610, 40], [528, 500], [297, 303]])
BOXES = torch.cat([CORNERS, CORNERS + torch.tensor([[8.0, 7], [6, 8], [9, 8], [10, 8], [8, 8]])], dim=1)
LABELS = torch.tensor([0, 1, 2, 0, 1])
HALVES = [torch.bfloat16, torch.float16]


def sample() -> DetDataSample:
    shape = (SIZE, SIZE)
    meta = dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))
    result = DetDataSample(metainfo=meta)
    result.gt_instances = InstanceData(bboxes=BOXES.clone(), labels=LABELS)
    return result


def yolo(kind):
    torch.manual_seed(0)
    module = head_module('mmscale.YOLOv10HeadModule') if 'v10' in kind else head_module()
    loss = dict(loss_bbox={**RF_MPDIOU, 'focal': None}) if 'SizeAware' in kind else {}
    return build(**head(kind, module, **loss))


def perfect(dtype) -> tuple[list[torch.Tensor], ...]:
    """Scores, distances and bins of all levels: every cell within an object predicts its box, to the eighth exactly."""
    scores, distances, bins = [], [], []
    for stride in STRIDES:
        side = SIZE // stride
        centres = (torch.arange(side) + 0.5) * stride
        score = torch.full((1, CLASSES, side, side), -6.0)
        distance = torch.full((1, 4, side, side), 0.5)
        for (left, top, right, bottom), label in zip(BOXES.tolist(), LABELS.tolist(), strict=True):
            for row in ((centres > top) & (centres < bottom)).nonzero()[:, 0]:
                for column in ((centres > left) & (centres < right)).nonzero()[:, 0]:
                    x, y = centres[column], centres[row]
                    score[0, label, row, column] = 3.0
                    distance[0, :, row, column] = torch.stack([x - left, y - top, right - x, bottom - y]) / stride
        scores.append(score.to(dtype).requires_grad_())
        distances.append(distance.to(dtype).requires_grad_())
        bins.append(torch.zeros(1, side * side, 4, 16, dtype=dtype, requires_grad=True))
    return scores, distances, bins


def losses_of(kind, dtype) -> dict[str, float]:
    module, truth = yolo(kind), sample()
    maps = perfect(dtype)
    maps = (maps, perfect(dtype)) if 'v10' in kind else maps
    with torch.autocast('cpu', dtype if dtype in HALVES else torch.bfloat16, enabled=dtype in HALVES):
        losses = module.loss_by_feat(*maps, [truth.gt_instances], [truth.metainfo])
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize(
    'kind',
    ['mmyolo.YOLOv8Head', 'mmscale.YOLOv10Head', 'mmscale.SizeAwareYOLOv8Head', 'mmscale.SizeAwareYOLOv10Head'],
)
def test_boxes_far_from_the_origin_are_not_rounded_in_the_loss(kind, dtype):
    """In bfloat16 there is no odd number beyond 256, in float16 none with a half beyond 1024."""
    expected, losses = losses_of(kind, torch.float32), losses_of(kind, dtype)
    assert expected['loss_bbox'] == pytest.approx(0, abs=1e-4) and expected['loss_dfl'] > 1
    assert losses == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize('kind', ['mmyolo.YOLOv8Head', 'mmscale.YOLOv10Head'])
def test_nor_in_what_is_detected(kind, dtype):
    """Boxes in the type of the weights' maps would be."""
    module = yolo(kind).eval()
    scores, distances, _ = perfect(dtype)
    with torch.inference_mode(), torch.autocast('cpu', dtype):
        (found,) = module.predict_by_feat(scores, distances, batch_img_metas=[sample().metainfo], rescale=True)
    assert found.bboxes.dtype == found.scores.dtype == torch.float32
    found = found.bboxes[found.scores > 0.5]
    apart = (found[:, None] - BOXES).abs().amax(dim=2)
    assert apart.amin(dim=1).max() < 1e-4 and set(apart.argmin(dim=1).tolist()) == set(range(len(BOXES)))
