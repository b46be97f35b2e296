"""The fixed-size NMS is MMCV's."""

import pytest
import torch
from mmcv.ops import batched_nms

from mmscale.deploy.nms import keep_best


@pytest.mark.parametrize('most', [4, 100])
def test_keeps_what_mmcv_keeps(most):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 60, 2, generator=generator) * 50
    boxes = torch.cat((corners, corners + 5 + torch.rand(2, 60, 2, generator=generator) * 30), dim=-1)
    scores = torch.rand(2, 60, generator=generator)
    kept = keep_best(boxes, scores, 0.4, most)
    for image in range(2):
        nms_cfg = dict(type='nms', iou_threshold=0.4)
        _, expected = batched_nms(boxes[image], scores[image], torch.zeros(60), nms_cfg)
        assert set(kept[image].nonzero().flatten().tolist()) == set(expected[:most].tolist())
    assert kept.sum(1).min() == min(most, kept.sum(1).min())


def test_a_score_of_zero_takes_no_part():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10]], [[0.0, 0, 10, 10], [30, 0, 40, 10]]])
    assert keep_best(boxes, torch.tensor([[0.0, 0.0], [0.0, 0.3]]), 0.5, 5).tolist() == [[False, False], [False, True]]
