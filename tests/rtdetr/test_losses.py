import math

import pytest
import torch
from mmdet.models.losses import VarifocalLoss

from mmscale.rtdetr import IoUVarifocalLoss
from mmscale.rtdetr.losses import iou_varifocal_loss

LN2 = math.log(2)


def test_values_by_hand():
    """p = 1/2 for both classes; object of class 0 with IoU 0.6: BCE(0.5, 0.6) * 0.6, and 0.75 * 0.5^2 * BCE(0.5, 0)."""
    loss = iou_varifocal_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.6]))
    torch.testing.assert_close(loss, torch.tensor([[0.6 * LN2, 0.75 * 0.25 * LN2]]))


def test_another_probability_by_hand():
    p = 0.8
    logit = math.log(p / (1 - p))
    loss = iou_varifocal_loss(torch.tensor([[logit, logit]]), torch.tensor([1]), torch.tensor([0.5]))
    negative = 0.75 * p**2 * -math.log(1 - p)
    positive = 0.5 * -(0.5 * math.log(p) + 0.5 * math.log(1 - p))
    torch.testing.assert_close(loss, torch.tensor([[negative, positive]]), atol=1e-6, rtol=1e-5)


def test_a_query_without_object_is_all_negative():
    loss = iou_varifocal_loss(torch.zeros(1, 2), torch.tensor([2]), torch.tensor([0.9]), alpha=0.5, gamma=1.0)
    torch.testing.assert_close(loss, torch.full((1, 2), 0.5 * 0.5 * LN2))


def test_a_matched_query_that_misses_its_object_costs_nothing_for_its_class():
    """MMDetection's counts it as a negative."""
    logits, labels, ious = torch.tensor([[2.0, -1.0]]), torch.tensor([0]), torch.tensor([0.0])
    assert iou_varifocal_loss(logits, labels, ious)[0, 0] == 0
    target = torch.tensor([[0.0, 0.0]])
    assert VarifocalLoss(reduction='none')(logits, target)[0, 0] > 0.5


def test_values_are_those_of_mmdetection_where_every_object_is_met():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 3, 1])
    ious = torch.tensor([0.2, 0.9, 0.5, 0.0, 0.7, 1.0])
    target = torch.zeros(6, 4)
    target[torch.arange(6), labels] = ious
    theirs = VarifocalLoss(alpha=0.75, gamma=2.0, iou_weighted=True, reduction='none')(logits, target[:, :3])
    torch.testing.assert_close(iou_varifocal_loss(logits, labels, ious), theirs)


def test_the_weight_of_a_negative_has_no_gradient():
    logits = torch.tensor([[0.3, -0.4]], requires_grad=True)
    iou_varifocal_loss(logits, torch.tensor([2]), torch.tensor([0.0])).sum().backward()
    p = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, 0.75 * p**2 * p)  # weight times the gradient of -log(1 - p)


@pytest.mark.parametrize(('reduction', 'expected'), [('sum', 2.0), ('mean', 0.5), ('none', 2.0)])
def test_reduction_and_weight(reduction, expected):
    loss = IoUVarifocalLoss(reduction=reduction, loss_weight=2.0)
    logits, target = torch.zeros(2, 2), (torch.tensor([0, 2]), torch.tensor([1.0, 0.0]))
    weight = torch.tensor([1.0, 0.0])
    plain = iou_varifocal_loss(logits, *target)[0].sum()  # the second query weighs nothing
    value = loss(logits, target, weight, avg_factor=4.0 if reduction == 'mean' else None)
    assert float(value.sum() / plain) == pytest.approx(expected)
