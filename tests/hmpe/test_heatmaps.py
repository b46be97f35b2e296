"""Heatmaps by gradients: the closed form against automatic differentiation, one class at a time, laws."""

import pytest
import torch
from torch import nn

from mmscale.hmpe.heatmaps import class_heatmap, closed_form, exact_form, heatmap_of, normalise

from . import literal

CLASSES = 3


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def smooth_branch(channels=4, seed=0):
    """Two 1x1 convolutions with a curve between them, in double precision: s is curved in every activation."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(channels, 5, 1), nn.Tanh(), nn.Conv2d(5, CLASSES, 1)).double()


def linear_branch(channels=4, seed=0):
    """One 1x1 convolution behind features that are curved; in double precision."""
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, channels, 1), nn.Softplus())
    return features.double(), nn.Conv2d(channels, CLASSES, 1).double()


def labelled(batch=2, size=(4, 5)):
    """Every class has positions in the first image, the last class has none in the others."""
    labels = torch.randint(-1, CLASSES, (batch, *size), generator=torch.Generator().manual_seed(1))
    labels[0].view(-1)[:CLASSES] = torch.arange(CLASSES)
    labels[1:][labels[1:] == CLASSES - 1] = -1
    return labels


def own(branch, activations, labels):
    """Every position's own s and the gradient of their sum, as one backward pass gives them."""
    a = activations.detach().requires_grad_()
    s = branch(a).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    (gradient,) = torch.autograd.grad((s * (labels >= 0)).sum(), a)
    return gradient, s.detach()


def heat(branch, activations, labels, classes=CLASSES):
    gradient, scores = own(branch, activations, labels)
    return class_heatmap(activations, gradient, scores, labels, classes)


# Eq. 1 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('derive', [exact_form, lambda y, a: sum(literal.derivatives(y, a)[1:])], ids=['ours', 'plain'])
def test_the_closed_form_is_that_of_automatic_derivatives(derive):
    """The features below are curved; the score is linear in the activations that are differentiated."""
    features, branch = linear_branch()
    activations = features(normal(2, 2, 3, 4))[0].detach()

    def y(a):
        return branch(a[None])[0, 1].exp().sum()

    a = activations.clone().requires_grad_()
    s = branch(a[None])[0, 1]
    (gradient,) = torch.autograd.grad(s.sum(), a)
    expected = derive(y, activations)
    torch.testing.assert_close(closed_form(gradient, s.detach()), expected, atol=1e-10, rtol=1e-10)
    assert expected.abs().max() > 0.05


@pytest.mark.parametrize('derive', [exact_form, lambda y, a: sum(literal.derivatives(y, a)[1:])], ids=['ours', 'plain'])
def test_a_curved_score_has_more_terms(derive):
    """y'' = y (g^2 + s''), y''' = y (g^3 + 3 g s'' + s'''); by tanh's own derivatives."""
    branch, activations = smooth_branch(), normal(4, 3, 2, seed=3)
    first, _, last = branch
    inner = (torch.einsum('oc,chw->ohw', first.weight[..., 0, 0], activations) + first.bias[:, None, None]).tanh()
    slopes = [1 - inner**2, -2 * inner * (1 - inner**2), -2 * (1 - inner**2) * (1 - 3 * inner**2)]
    outer, weight = last.weight[1, :, 0, 0], first.weight[..., 0, 0]
    g, s2, s3 = (torch.einsum('o,ohw,oc->chw', outer, slope, weight**n) for n, slope in enumerate(slopes, 1))
    y = branch(activations[None])[0, 1].exp()
    expected = y * (g**2 + s2) + y * (g**3 + 3 * g * s2 + s3)
    found = derive(lambda a: branch(a[None])[0, 1].exp().sum(), activations)
    torch.testing.assert_close(found, expected.detach(), atol=1e-10, rtol=1e-10)
    assert (found - closed_form(g, branch(activations[None])[0, 1])).abs().max() > 1e-3, 'terms that matter'


@pytest.mark.parametrize('derive', [exact_form, lambda y, a: sum(literal.derivatives(y, a)[1:])], ids=['ours', 'plain'])
def test_the_literal_form_vanishes_on_a_relu_head(derive):
    """Such a head is linear in each activation almost everywhere: no second derivative. That of exp(s) is none."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1)).double()
    activations = normal(4, 3, 4)
    assert not derive(lambda a: head(a[None]).sum(), activations).any()
    assert derive(lambda a: head(a[None]).sum().exp(), activations).abs().min() > 0


def test_the_literal_map_of_a_relu_head_is_zero_everywhere():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1)).double()
    activations = normal(4, 3, 4).abs()
    assert not literal.eqs_1_to_3(lambda a: head(a[None]).sum(), activations).any()
    assert literal.eqs_1_to_3(lambda a: head(a[None]).exp().sum(), activations).any()


def test_exact_derivatives_of_polynomials():
    values = torch.tensor([[[1.0, -2.0], [0.5, 3.0]]], dtype=torch.float64)
    for y, expected in (
        (lambda a: (a**4).sum(), 12 * values**2 + 24 * values),
        (lambda a: (a**2).sum(), torch.full_like(values, 2.0)),
        (lambda a: a.sum(), torch.zeros_like(values)),
        (lambda a: (a.detach() ** 4).sum(), torch.zeros_like(values)),
        (lambda a: a[0, 0, 0] ** 3 * a[0, 1, 1], torch.tensor([[[6.0 * 3 + 6 * 3, 0], [0, 0]]]).double()),
    ):
        torch.testing.assert_close(exact_form(y, values), expected)


# Eqs. 2 and 3 ---------------------------------------------------------------------------------------------------------


def test_channels_count_by_the_weights_where_the_gradient_is_positive():
    weights = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]], [[-1.0, 0.0]]])
    gradient = torch.tensor([[[0.5, -9.0]], [[-9.0, 0.25]], [[2.0, 0.0]]])
    activations = torch.tensor([[[1.0, 2.0]], [[-1.0, 4.0]], [[0.0, 9.0]]])
    # beta = 0.5, 1, -2
    assert heatmap_of(weights, gradient, activations).tolist() == [[0.0, 0.0]]
    assert heatmap_of(weights[:2], gradient[:2], activations[:2]).tolist() == [[0.0, 5.0]]


def test_batches_of_eqs_2_and_3():
    parts = [normal(2, 3, 4, 2, 5, seed=seed) for seed in range(3)]
    whole = heatmap_of(*parts)
    assert whole.shape == (2, 3, 2, 5) and (whole >= 0).all()
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(heatmap_of(*(x[i, j] for x in parts)), whole[i, j])


# All classes at once --------------------------------------------------------------------------------------------------


def test_all_classes_at_once_are_one_class_after_the_other():
    """By automatic second and third derivatives of every class's own score."""
    features, branch = linear_branch()
    activations, labels = features(normal(2, 2, 4, 5)).detach(), labelled()
    found = heat(branch, activations, labels)
    assert len(labels[0].unique()) == CLASSES + 1
    for i in range(2):
        expected = literal.heatmap_of_classes(lambda a: branch(a[None])[0], activations[i], labels[i], CLASSES)
        torch.testing.assert_close(found[i], expected, atol=1e-10, rtol=1e-10)


def test_all_classes_at_once_are_one_pass_per_class():
    """With a branch that is not linear, where the closed form is what is meant."""
    branch, activations, labels = smooth_branch(), normal(3, 4, 4, 5).abs(), labelled(3)
    found = heat(branch, activations, labels)
    for i in range(3):
        expected = literal.heatmap_by_one_pass(lambda a: branch(a[None])[0], activations[i], labels[i], CLASSES)
        torch.testing.assert_close(found[i], expected, atol=1e-10, rtol=1e-10)


def test_values_are_from_0_to_1_with_a_1_in_each_image_that_is_hot():
    branch, activations, labels = smooth_branch(), normal(8, 4, 4, 5), labelled(8)
    labels[5] = -1
    found = heat(branch, activations, labels)
    assert (found >= 0).all() and (found <= 1).all()
    hottest = found.flatten(1).amax(1)
    assert ((hottest == 1) | (hottest == 0)).all() and (hottest == 1).sum() >= 6
    assert not found[5].any()


def test_every_class_reaches_1_whatever_its_score():
    """A class is divided by its own largest value: one that is a thousand times less sure is as hot."""
    activations = torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.5]]]])  # two channels, three positions
    gradient = torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]])
    labels = torch.tensor([[[0, 1, -1]]])
    for score in (-7.0, 500.0, -500.0):
        found = class_heatmap(activations, gradient, torch.tensor([[[0.0, score, 0.0]]]), labels, 2)
        assert found.tolist() == [[[1.0, 1.0, 0.5]]]


def test_within_a_class_sure_positions_count_more():
    """By y^2: alpha and the gradient of y both have one."""
    activations = torch.tensor([[[[2.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]]]])
    gradient = torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]])
    scores = torch.tensor([[[0.0, -0.5, 0.0]]])
    found = class_heatmap(activations, gradient, scores, torch.tensor([[[0, 0, -1]]]), 1)
    torch.testing.assert_close(found, torch.tensor([[[1.0, torch.e**-1, 0.0]]]))


# Laws -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def case():
    activations, labels = normal(3, 4, 4, 5).abs(), labelled(3)
    labels[2] = -1
    gradient, scores = own(smooth_branch(), activations, labels)
    return activations, gradient, scores, labels


@pytest.mark.parametrize('shift', [1000.0, -1000.0, 3.0])
def test_a_constant_in_all_scores_changes_nothing(case, shift):
    """Nor do scores overflow."""
    activations, gradient, scores, labels = case
    expected = class_heatmap(activations, gradient, scores, labels, CLASSES)
    found = class_heatmap(activations, gradient, scores + shift, labels, CLASSES)
    torch.testing.assert_close(found, expected)
    assert expected[:2].flatten(1).amax(1).tolist() == [1, 1]


def test_scores_of_a_thousand_do_not_overflow_in_single_precision(case):
    activations, gradient, scores, labels = (x.float() if x.is_floating_point() else x for x in case)
    expected = class_heatmap(activations, gradient, scores, labels, CLASSES)
    for shift in (1000.0, -1000.0):
        found = class_heatmap(activations, gradient, scores + shift, labels, CLASSES)
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    apart = class_heatmap(activations, gradient, 1000 * scores, labels, CLASSES)
    assert apart.isfinite().all()


def test_images_are_independent(case):
    whole = class_heatmap(*case, CLASSES)
    for i in range(3):
        torch.testing.assert_close(class_heatmap(*(x[i : i + 1] for x in case), CLASSES)[0], whole[i])
    activations, gradient, scores, labels = case
    apart = scores + torch.tensor([0.0, -1000.0, 1000.0]).view(3, 1, 1)
    torch.testing.assert_close(class_heatmap(activations, gradient, apart, labels, CLASSES), whole)


def test_the_order_of_the_classes_does_not_matter(case):
    *parts, labels = case
    other = torch.tensor([2, 0, 1])[labels].masked_fill(labels < 0, -1)
    torch.testing.assert_close(class_heatmap(*parts, other, CLASSES), class_heatmap(*case, CLASSES))


def test_classes_that_are_not_there_change_nothing(case):
    torch.testing.assert_close(class_heatmap(*case, CLASSES + 5), class_heatmap(*case, CLASSES))


def test_permuting_positions_or_channels_alike_permutes_the_map(case):
    activations, gradient, scores, labels = case
    expected = class_heatmap(*case, CLASSES)
    turned = class_heatmap(*(x.transpose(-2, -1) for x in case), CLASSES)
    torch.testing.assert_close(turned, expected.transpose(-2, -1))
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        class_heatmap(activations[:, order], gradient[:, order], scores, labels, CLASSES), expected
    )


def test_images_without_objects_are_zero(case):
    found = class_heatmap(*case, CLASSES)
    assert not found[2].any() and found[:2].flatten(1).any(1).all()
    *parts, labels = case
    assert not class_heatmap(*parts, torch.full_like(labels, -1), CLASSES).any()


def test_gradients_and_scores_of_positions_without_object_are_not_read(case):
    activations, gradient, scores, labels = case
    outside = labels < 0
    other = gradient.masked_fill(outside[:, None], 7.0), scores.masked_fill(outside, 2000.0)
    torch.testing.assert_close(
        class_heatmap(activations, *other, labels, CLASSES), class_heatmap(*case, CLASSES)
    )


def test_negative_gradients_are_cut(case):
    activations, gradient, scores, labels = case
    positive = class_heatmap(activations, gradient.relu(), scores, labels, CLASSES)
    torch.testing.assert_close(positive, class_heatmap(*case, CLASSES))
    assert not class_heatmap(activations, -gradient.abs(), scores, labels, CLASSES).any()


def test_rows_are_divided_by_their_largest_value():
    rows = torch.tensor([[1.0, 4.0, 2.0], [0.0, 0.0, 0.0], [1e-30, 0.0, 5e-31]])
    expected = torch.tensor([[0.25, 1.0, 0.5], [0.0, 0.0, 0.0], [1.0, 0.0, 0.5]])
    torch.testing.assert_close(normalise(rows), expected)
    assert normalise(rows[None]).equal(normalise(rows)[None])
