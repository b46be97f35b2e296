import math

import pytest
import torch
from mmdet.models.losses import IoULoss

from mmscale.hsd_detr import RFMPDIoULoss
from mmscale.hsd_detr.rf_mpdiou import rf_mpdiou_loss
from mmscale.layers.image_sizes import image_sizes, state_rows

from . import literal_rf_mpdiou as literal

STAGES = dict(
    iou=dict(focal=None, alpha=None, corners=False),
    focaler=dict(focal=(0.2, 0.8), alpha=None, corners=False),
    mpdiou=dict(focal=None, alpha=None, corners=True),
    rf=dict(),
    rf_other=dict(focal=(0.1, 0.9), alpha=0.3),
    rational=dict(focal=None, alpha=2.5, corners=False),
)
SIZE = (80.0, 60.0)  # w^2 + h^2 = 10^4
SAME = [10.0, 10.0, 40.0, 30.0]


def pairs(count=40, seed=0):
    """Boxes of images of different sizes, pairs from alike to far away, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(count, 2, generator=generator, dtype=torch.double) * 500 + 100
    first = torch.rand(count, 2, generator=generator, dtype=torch.double) * 0.5
    side = torch.rand(count, 2, generator=generator, dtype=torch.double) * 0.4 + 0.05
    target = torch.cat((first, first + side), dim=1)
    noise = torch.randn(count, 4, generator=generator, dtype=torch.double)
    pred = target + noise * torch.linspace(0.005, 0.2, count, dtype=torch.double)[:, None]
    pred = torch.cat((pred[:, :2].clamp(0, 1), torch.maximum(pred[:, 2:], pred[:, :2] + 0.01).clamp(0, 1.1)), dim=1)
    return pred * sizes.repeat(1, 2), target * sizes.repeat(1, 2), sizes


def inside(count, seed=1):
    """Any boxes in an image of SIZE."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 2, 2, generator=generator, dtype=torch.double) * torch.tensor(SIZE)
    return points.sort(dim=1).values.flatten(1)


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
def test_values_and_gradients_are_those_of_the_formula(stages):
    pred, target, sizes = pairs()
    pred.requires_grad_()
    loss = rf_mpdiou_loss(pred, target, sizes, **stages)
    triples = list(zip(pred.tolist(), target.tolist(), sizes.tolist(), strict=True))
    expected = torch.tensor([literal.loss(*triple, **stages) for triple in triples], dtype=torch.double)
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=1e-12)
    loss.sum().backward()
    slopes = torch.tensor([literal.gradient(*triple, **stages) for triple in triples], dtype=torch.double)
    torch.testing.assert_close(pred.grad, slopes, atol=1e-8, rtol=1e-6)
    single = rf_mpdiou_loss(pred.float(), target.float(), sizes.float(), **stages)
    torch.testing.assert_close(single, expected.float(), atol=1e-5, rtol=1e-5)


def test_pairs_are_of_all_kinds():
    """Otherwise the test above says little."""
    pred, target, sizes = pairs()
    loss = rf_mpdiou_loss(pred, target, sizes, **STAGES['iou'])
    assert (loss == 1).any() and (loss < 0.05).any() and ((loss > 0.2) & (loss < 0.8)).sum() > 10


@pytest.mark.parametrize(
    ('stages', 'expected'),
    [
        (STAGES['iou'], 0.5),
        (STAGES['focaler'], 0.5),  # (0.5 - 0.2) / 0.6
        (STAGES['mpdiou'], 0.5 + 0.09),
        (dict(focal=(0.0, 0.5)), 0.09),  # an IoU of u counts as 1
        (dict(focal=None), 1 - 2 / 3 + 0.09),  # 2 * 0.5 / 1.5
        (dict(focal=(0.25, 0.75), alpha=0.5), 1 - 1.5 * 0.5 / 1.0 + 0.09),
        (dict(), 1 - 2 * (10 / 19) / (29 / 19) + 0.09),  # 0.5 / 0.95 = 10 / 19
    ],
)
def test_values_by_hand(stages, expected):
    """One half of the target: IoU 1/2; the lower right corner is 30 away, 900 of 80^2 + 60^2."""
    pred, target = torch.tensor([[0.0, 0, 40, 30]]), torch.tensor([[0.0, 0, 40, 60]])
    assert rf_mpdiou_loss(pred, target, SIZE, **stages).item() == pytest.approx(expected, rel=1e-6)
    assert rf_mpdiou_loss(target, pred, SIZE, **stages).item() == pytest.approx(expected, rel=1e-6)


def test_both_corners_count_by_hand():
    """No overlap: (0, 0) against (30, 40) is 2500 away, (10, 10) against (60, 50) is 4100."""
    pred, target = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[30.0, 40, 60, 50]])
    assert rf_mpdiou_loss(pred, target, SIZE).item() == pytest.approx(1 + 0.25 + 0.41, rel=1e-6)


def test_the_slopes_of_the_rational_function():
    """2 for hard boxes and 1/2 for easy ones at alpha = 1: d IoU / d x2 is 1/100 here."""
    target = torch.tensor([[0.0, 0, 100, 100]])
    for x2, slope in ((1e-3, -2 / 100), (99.99, -0.5 / 100)):
        pred = torch.tensor([[0.0, 0, x2, 100]], requires_grad=True)
        rf_mpdiou_loss(pred, target, None, focal=None, corners=False).sum().backward()
        assert pred.grad[0, 2].item() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.float, torch.double])
def test_equal_boxes_cost_exactly_nothing(stages, dtype):
    boxes = inside(200).to(dtype)
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)]
    tiny = torch.tensor([[5.0, 5.0, 5.125, 5.125]], dtype=dtype)
    boxes = torch.cat((boxes, tiny, boxes * 0.01, boxes * 16))
    assert rf_mpdiou_loss(boxes, boxes.clone(), SIZE, **stages).eq(0).all()


DEGENERATE = dict(
    point=[20.0, 20, 20, 20],
    line=[10.0, 10, 40, 10],
    zero=[0.0, 0, 0, 0],
    negative_width=[40.0, 10, 10, 30],
    negative_both=[40.0, 30, 10, 10],
    disjoint=[60.0, 40, 80, 60],
    touching=[40.0, 10, 60, 30],
    nearly_a_point=[20.0, 20, 20 + 2e-6, 20 + 2e-6],
    subnormal=[0.0, 0, 1e-20, 1e-20],
    outside=[-500.0, -400, -300, 900],
    huge=[-1e15, -1e15, 1e15, 1e15],
    equal=SAME,
)


PAIRS = [
    (one, two, dtype)
    for dtype in (torch.half, torch.float)
    for one in DEGENERATE
    for two in ('equal', 'zero', one)
    if dtype == torch.float or one != 'huge'  # which half precision cannot hold
]


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
@pytest.mark.parametrize(('one', 'two', 'dtype'), PAIRS)
def test_finite_for_any_boxes(one, two, stages, dtype):
    for first, second in ((one, two), (two, one)):
        pred = torch.tensor([DEGENERATE[first]], dtype=dtype, requires_grad=True)
        loss = rf_mpdiou_loss(pred, torch.tensor([DEGENERATE[second]], dtype=dtype), SIZE, **stages)
        loss.sum().backward()
        assert loss.isfinite().all() and pred.grad.isfinite().all()


def test_a_box_without_area_has_no_overlap():
    for name in ('point', 'line', 'zero', 'negative_width', 'negative_both', 'disjoint', 'touching'):
        box = torch.tensor([DEGENERATE[name]])
        assert rf_mpdiou_loss(box, torch.tensor([SAME]), None, corners=False).item() == 1
    point = torch.tensor([DEGENERATE['point']])
    assert rf_mpdiou_loss(point, point, SIZE).item() == 1  # nor have two, which are equal


def test_only_the_corners_bring_disjoint_boxes_together():
    target = torch.tensor([SAME])
    for stages, moves in ((STAGES['mpdiou'], True), ({}, True), (STAGES['iou'], False)):
        pred = torch.tensor([DEGENERATE['disjoint']], requires_grad=True)
        rf_mpdiou_loss(pred, target, SIZE, **stages).sum().backward()
        assert (pred.grad > 0).all() if moves else not pred.grad.any()


def test_half_precision_is_computed_in_single():
    """65504 is the largest half; areas and squares of an ordinary image are larger."""
    pred, target = torch.tensor([[0.0, 0, 1000, 800]]), torch.tensor([[8.0, 8, 1000, 800]])
    half = rf_mpdiou_loss(pred.half(), target.half(), torch.tensor([[1333.0, 800]]))
    assert half.dtype == torch.float
    assert half.equal(rf_mpdiou_loss(pred, target, (1333, 800)))


@pytest.mark.parametrize('scale', [0.01, 3.0, 250.0])
def test_boxes_and_image_in_another_unit_change_nothing(scale):
    pred, target, sizes = pairs()
    plain = rf_mpdiou_loss(pred, target, sizes)
    torch.testing.assert_close(rf_mpdiou_loss(pred * scale, target * scale, sizes * scale), plain)
    assert not torch.allclose(rf_mpdiou_loss(pred * scale, target * scale, sizes), plain)


@pytest.mark.parametrize('axis', [0, 1], ids=['horizontal', 'vertical'])
def test_a_mirrored_image_changes_nothing(axis):
    pred, target, sizes = pairs()
    plain = rf_mpdiou_loss(pred, target, sizes)

    def mirror(boxes):
        boxes = boxes.clone()
        boxes[:, [axis, axis + 2]] = sizes[:, axis : axis + 1] - boxes[:, [axis + 2, axis]]
        return boxes

    torch.testing.assert_close(rf_mpdiou_loss(mirror(pred), mirror(target), sizes), plain)


def test_boxes_change_places():
    pred, target, sizes = pairs()
    torch.testing.assert_close(rf_mpdiou_loss(pred, target, sizes), rf_mpdiou_loss(target, pred, sizes))


@pytest.mark.parametrize('alpha', [0.01, 0.18, 0.32, 0.57, 3.99, 1e4])
@pytest.mark.parametrize('focal', [None, (0.0, 0.95), (0.09, 1.0), (0.3, 0.7)])
def test_equal_boxes_cost_exactly_nothing_at_any_setting(focal, alpha):
    boxes = inside(200)
    assert rf_mpdiou_loss(boxes, boxes.clone(), SIZE, focal, alpha).eq(0).all()
    assert rf_mpdiou_loss(boxes, boxes + 1e-5, SIZE, focal, alpha).min() >= 0
    assert rf_mpdiou_loss(boxes, inside(200, seed=9), SIZE, focal, alpha, corners=False).max() <= 1


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
def test_between_0_and_3_in_the_image(stages):
    loss = rf_mpdiou_loss(inside(5000, seed=1), inside(5000, seed=2), SIZE, **stages)
    assert loss.min() >= 0 and loss.max() <= (3 if stages.get('corners', True) else 1)
    width, height = SIZE
    farthest = torch.tensor([[0.0, 0, 0, 0]]), torch.tensor([[width, height, width, height]])
    assert rf_mpdiou_loss(*farthest, SIZE).item() == pytest.approx(3)


def test_grows_with_the_corners_distance_at_equal_iou():
    """Boxes that do not meet, and boxes within a target which leave the same IoU."""
    target = torch.tensor([[0.0, 0, 20, 20]])
    away = torch.tensor([[x, 0.0, x + 10, 10] for x in (20.0, 30.0, 50.0, 70.0)])
    corner, middle = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 5, 15, 15]])
    losses = [rf_mpdiou_loss(boxes, target.expand_as(boxes), SIZE) for boxes in (away, torch.cat((middle, corner)))]
    for loss in losses:
        assert (loss.diff() > 0).all()
    iou = rf_mpdiou_loss(torch.cat((middle, corner)), target.expand(2, 4), None, corners=False)
    assert iou[0] == iou[1]


def test_the_plain_setting_is_mmdetections_iou_loss():
    pred, target, _ = pairs()
    theirs = IoULoss(mode='linear', reduction='none', eps=1e-12)(pred, target)
    torch.testing.assert_close(rf_mpdiou_loss(pred, target, None, **STAGES['iou']), theirs)


def test_each_stage_changes_the_loss():
    pred, target, sizes = pairs()
    losses = [rf_mpdiou_loss(pred, target, sizes, **stages).sum().item() for stages in STAGES.values()]
    assert len({round(loss, 6) for loss in losses}) == len(STAGES)


# The class


def rows():
    pred = torch.tensor([[0.0, 0, 40, 30], [10, 10, 40, 30], [0, 0, 10, 10]], requires_grad=True)
    target = torch.tensor([[0.0, 0, 40, 60], [10, 10, 40, 30], [30, 40, 60, 50]])
    return pred, target, [1 - 20 / 29 + 0.09, 0.0, 1.66]


def test_without_reduction_and_with_the_arguments_of_the_function():
    pred, target, expected = rows()
    loss = RFMPDIoULoss(reduction='none', loss_weight=2.0)(pred, target, image_sizes=SIZE)
    assert loss.tolist() == pytest.approx([2 * x for x in expected], rel=1e-6)
    for stages in STAGES.values():
        loss = RFMPDIoULoss(reduction='none', **stages)(pred, target, image_sizes=SIZE)
        torch.testing.assert_close(loss, rf_mpdiou_loss(pred, target, SIZE, **stages))


@pytest.mark.parametrize('columns', [1, 4])
def test_reduction_and_weight(columns):
    pred, target, expected = rows()
    weight = torch.tensor([2.0, 1.0, 0.5])
    total = 2 * expected[0] + 0.5 * expected[2]
    weight = weight if columns == 1 else weight[:, None].repeat(1, 4)
    loss = RFMPDIoULoss(loss_weight=3.0)
    values = [
        loss(pred, target, weight, image_sizes=SIZE),
        loss(pred, target, weight, avg_factor=5, image_sizes=SIZE),
        loss(pred, target, weight, avg_factor=torch.tensor(5.0), image_sizes=SIZE),
        loss(pred, target, weight, reduction_override='sum', image_sizes=SIZE),
        loss(pred, target, weight, reduction_override='none', image_sizes=SIZE).sum(),
    ]
    assert [x.item() for x in values] == pytest.approx([total, 3 * total / 5, 3 * total / 5, 3 * total, 3 * total])


def test_a_weight_per_side_counts_by_its_mean():
    pred, target, expected = rows()
    weight = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 4]])
    loss = RFMPDIoULoss(reduction='sum')(pred, target, weight, image_sizes=SIZE)
    assert loss.item() == pytest.approx(0.5 * expected[0] + expected[2])


@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
@pytest.mark.parametrize('dtype', [torch.half, torch.float])
def test_a_row_that_weighs_nothing_adds_exactly_nothing(reduction, dtype):
    """Not even one whose own loss leaves single precision."""
    large = torch.finfo(dtype).max
    extreme = [DEGENERATE[name] for name in DEGENERATE if name != 'huge']
    extreme = torch.tensor([*extreme, [-large, -large, large, large]], dtype=dtype)
    for own in (torch.zeros(1, 4, dtype=dtype), torch.tensor([SAME], dtype=dtype)):
        pred = extreme.clone().requires_grad_()
        weight = torch.zeros(len(pred), 4)
        loss = RFMPDIoULoss(reduction=reduction)(pred, own.expand_as(pred), weight, image_sizes=SIZE)
        assert loss.eq(0).all()
        loss.sum().backward()
        assert pred.grad.eq(0).all()
    pred = extreme.clone().requires_grad_()
    weight[2] = 1
    RFMPDIoULoss(reduction='sum')(pred, own.expand_as(pred), weight, image_sizes=SIZE).backward()
    assert pred.grad[2].any() and not pred.grad[:2].any() and not pred.grad[3:].any()


@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
@pytest.mark.parametrize('avg_factor', [None, 1.0])
def test_a_batch_without_rows_is_a_zero_of_the_graph(reduction, avg_factor):
    source = torch.ones(3, 4, requires_grad=True)
    avg_factor = avg_factor if reduction == 'mean' else None
    loss = RFMPDIoULoss(reduction=reduction)(
        source[:0], torch.zeros(0, 4), torch.zeros(0, 4), avg_factor, image_sizes=SIZE
    )
    assert loss.sum().item() == 0 and loss.shape == ((0,) if reduction == 'none' else ())
    loss.sum().backward()
    assert source.grad.eq(0).all()


def test_the_images_sizes_of_a_head():
    pred, target, _ = rows()
    loss = RFMPDIoULoss(reduction='none')
    sizes = torch.tensor([[80.0, 60], [40, 30], [60, 80]])
    expected = rf_mpdiou_loss(pred, target, sizes)
    with image_sizes(sizes, rows='blocks'):
        torch.testing.assert_close(loss(pred, target), expected)
    with image_sizes(sizes[[2, 1, 0]], rows='stated'):
        state_rows(torch.tensor([2, 1, 0]))
        torch.testing.assert_close(loss(pred, target), expected)
        torch.testing.assert_close(loss(pred, target, image_sizes=SIZE), rf_mpdiou_loss(pred, target, SIZE))


def test_without_corners_no_size_is_asked_for():
    pred, target, _ = rows()
    assert RFMPDIoULoss(corners=False)(pred, target).isfinite()


def test_without_sizes_the_error_says_what_to_do():
    pred, target, _ = rows()
    with pytest.raises(ValueError, match='use mmscale.RTDETRHead, mmscale.SizeAwareRetinaHead.*or pass image_sizes='):
        RFMPDIoULoss()(pred, target)
    with image_sizes([SIZE, SIZE], rows='blocks'), pytest.raises(ValueError, match='3 rows.*equal blocks of 2 images'):
        RFMPDIoULoss()(pred, target)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (
            dict(focal=(0.95, 0.0)),
            r'focal=\(0.95, 0.0\) of RF-MPDIoU should be None or two numbers d and u, 0 <= d < u',
        ),
        (dict(focal=(0.5, 0.5)), r'focal=\(0.5, 0.5\)'),
        (dict(focal=(-0.1, 0.5)), r'focal=\(-0.1, 0.5\)'),
        (dict(focal=(0.0, 1.5)), r'focal=\(0.0, 1.5\)'),
        (dict(focal=(0.0, 0.5, 1.0)), r'focal=\(0.0, 0.5, 1.0\)'),
        (dict(alpha=0.0), 'alpha=0.0 of RF-MPDIoU should be None or a number above 0'),
        (dict(alpha=-1.0), 'alpha=-1.0'),
        (dict(alpha=math.nan), 'alpha=nan'),
    ],
)
def test_arguments_out_of_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        RFMPDIoULoss(**options)
    with pytest.raises(ValueError, match=sentence):
        rf_mpdiou_loss(torch.zeros(1, 4), torch.zeros(1, 4), SIZE, **options)


def test_reductions_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="reduction='avg' of RFMPDIoULoss should be one of none, mean, sum"):
        RFMPDIoULoss(reduction='avg')
    pred, target, _ = rows()
    with pytest.raises(ValueError, match="reduction_override='all' of RFMPDIoULoss should be one of none, mean, sum"):
        RFMPDIoULoss()(pred, target, reduction_override='all', image_sizes=SIZE)


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (dict(target=torch.zeros(2, 4)), r'pred \(3, 4\) and target \(2, 4\) should both be \(N, 4\)'),
        (dict(pred=torch.zeros(3, 5), target=torch.zeros(3, 5)), r'pred \(3, 5\) and target \(3, 5\)'),
        (dict(weight=torch.ones(2)), r'weight \(2,\) should be \(3,\) or \(3, 4\)'),
        (dict(weight=torch.ones(3, 2)), r'weight \(3, 2\) should be'),
        (dict(image_sizes=torch.ones(2, 2)), r'image_sizes \(2, 2\) should be \(2,\) or \(3, 2\)'),
        (dict(image_sizes=(80, 60, 80, 60)), r'image_sizes \(4,\) should be'),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, sentence):
    pred, target, _ = rows()
    with pytest.raises(ValueError, match=sentence):
        RFMPDIoULoss()(**{**dict(pred=pred, target=target, image_sizes=SIZE), **changes})


def test_a_column_of_weights_is_one_weight_a_row():
    pred, target, _ = rows()
    weight = torch.tensor([0.5, 0.0, 2.0])
    losses = [RFMPDIoULoss()(pred, target, x, image_sizes=SIZE) for x in (weight, weight[:, None])]
    assert torch.equal(*losses)


def test_the_function_says_that_it_needs_sizes():
    with pytest.raises(ValueError, match='image_sizes=None of rf_mpdiou_loss should be given, or corners should be'):
        rf_mpdiou_loss(torch.zeros(1, 4), torch.zeros(1, 4), None)
