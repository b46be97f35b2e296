import pytest
import torch
from mmengine.structures import InstanceData

from mmscale.rtdetr import RTDETRHead
from mmscale.rtdetr.losses import iou_varifocal_loss

from . import small

SIZE = (100, 200)
# Two objects in pixels of a batch of 100 x 200 and what the queries say, (cx, cy, w, h) over that size.
OBJECTS = [[20.0, 10.0, 60.0, 50.0], [100.0, 40.0, 180.0, 80.0]]
BOXES = [[0.2, 0.3, 0.2, 0.4], [0.5, 0.5, 0.1, 0.1], [0.7, 0.5, 0.4, 0.4]]


def head(**options):
    torch.manual_seed(0)
    return RTDETRHead(
        num_classes=2,
        embed_dims=8,
        num_pred_layer=2,
        as_two_stage=True,
        train_cfg=dict(assigner=small.ASSIGNER),
        **options,
    )


def losses(head, logits, boxes, objects, labels):
    truth = InstanceData(bboxes=torch.tensor(objects).reshape(-1, 4), labels=torch.tensor(labels).long())
    return head.loss_by_feat_single(logits[None], torch.tensor(boxes)[None], [truth], [dict(img_shape=SIZE)])


def test_a_batch_by_hand():
    """Query 0 is on object 0, query 2 near object 1: 140 x 50 against (100, 40, 180, 80), which is 10 to the side."""
    logits = torch.tensor([[2.0, -2.0], [-1.0, -3.0], [-2.0, 1.0]])
    loss_cls, loss_bbox, loss_iou = losses(head(), logits, BOXES, OBJECTS, [0, 1])
    # Query 2 is (100, 30, 180, 70): it shares 80 x 30 with object 1, of 80 x 50 together; the hull is 80 x 50, too.
    iou = 0.6
    assert loss_bbox.item() == pytest.approx(5 * 0.1 / 2, rel=1e-5)  # 10 of 100 pixels in cy
    assert loss_iou.item() == pytest.approx(2 * (1 - iou) / 2, rel=1e-5)
    expected = iou_varifocal_loss(logits, torch.tensor([0, 2, 1]), torch.tensor([1.0, 0.0, iou])).sum() / 2
    assert loss_cls.item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_objects_the_sum_is_divided_by_one():
    logits = torch.zeros(3, 2)
    loss_cls, loss_bbox, loss_iou = losses(head(), logits, BOXES, [], [])
    assert loss_cls.item() == pytest.approx(6 * 0.75 * 0.25 * 0.6931472, rel=1e-5)
    assert loss_bbox.item() == loss_iou.item() == 0


def test_a_matched_box_that_misses_its_object_has_no_class_loss_for_it():
    logits = torch.zeros(1, 2)
    loss_cls, *_ = losses(head(), logits, [[0.9, 0.9, 0.1, 0.1]], [[0.0, 0.0, 20.0, 20.0]], [0])
    assert loss_cls.item() == pytest.approx(0.75 * 0.25 * 0.6931472, rel=1e-5)  # of the other class


def test_boxes_learn_nothing_from_the_class_loss():
    boxes = torch.tensor(BOXES, requires_grad=True)
    truth = InstanceData(bboxes=torch.tensor(OBJECTS), labels=torch.tensor([0, 1]))
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    loss_cls, *_ = head().loss_by_feat_single(logits, boxes[None], [truth], [dict(img_shape=SIZE)])
    gradient, none = torch.autograd.grad(loss_cls, [logits, boxes], allow_unused=True)
    assert gradient.any()
    assert none is None


def test_no_object_is_divided_by_what_is_not_matched():
    """Averages are over matched objects alone, however many queries there are."""
    logits, boxes = torch.zeros(40, 2), [[0.9, 0.1, 0.05, 0.05]] * 38 + BOXES[:1] + BOXES[2:]
    few = losses(head(), torch.zeros(2, 2), BOXES[:1] + BOXES[2:], OBJECTS, [0, 1])
    many = losses(head(), logits, boxes, OBJECTS, [0, 1])
    assert [x.item() for x in many[1:]] == pytest.approx([x.item() for x in few[1:]])
    assert (many[0] - few[0]).item() == pytest.approx(38 * 2 * 0.75 * 0.25 * 0.6931472 / 2, rel=1e-4)


def test_the_targets_of_denoising_are_the_positives():
    """Of two groups of one object: query 0 is positive, 1 negative, 2 positive, 3 negative."""
    truth = InstanceData(bboxes=torch.tensor(OBJECTS[:1]), labels=torch.tensor([1]))
    meta = dict(num_denoising_queries=4, num_denoising_groups=2)
    exact, far = BOXES[0], [0.9, 0.9, 0.05, 0.05]
    metas = [dict(img_shape=SIZE)]
    for boxes, perfect in (([exact, far, exact, far], True), ([far, exact, far, exact], False)):
        boxes = torch.tensor(boxes)[None]
        loss_cls, loss_bbox, loss_iou = head()._loss_dn_single(torch.zeros(1, 4, 2), boxes, [truth], metas, meta)
        assert (loss_bbox.item() < 1e-5) == (loss_iou.item() < 1e-5) == perfect
    right = torch.tensor([[[-30.0, 30], [-30, -30], [-30, 30], [-30, -30]]])
    loss_cls, *_ = head()._loss_dn_single(right, torch.tensor([[exact] * 4]), [truth], metas, meta)
    assert loss_cls.item() == pytest.approx(0, abs=1e-5)


def test_the_denoising_queries_come_first():
    logits, boxes = torch.arange(5.0).view(1, 1, 5, 1), torch.arange(5.0).view(1, 1, 5, 1) + 10
    parts = RTDETRHead.split_outputs(logits, boxes, dict(num_denoising_queries=2))
    assert [x.flatten().tolist() for x in parts] == [[2, 3, 4], [12, 13, 14], [0, 1], [10, 11]]
    matching, _, *denoising = RTDETRHead.split_outputs(logits, boxes, None)
    assert matching.equal(logits) and denoising == [None, None]


def test_weights_of_the_losses_are_factors():
    logits = torch.zeros(3, 2)
    options = dict(loss_cls=dict(type='mmscale.IoUVarifocalLoss', loss_weight=3.0))
    options |= dict(loss_bbox=dict(type='mmdet.L1Loss', loss_weight=1.0), loss_iou=dict(type='mmdet.GIoULoss'))
    plain, other = (losses(head(**o), logits, BOXES, OBJECTS, [0, 1]) for o in ({}, options))
    ratios = [(b / a).item() for a, b in zip(plain, other, strict=True)]
    assert ratios == pytest.approx([3, 1 / 5, 1 / 2], rel=1e-4)


def test_predictions_without_a_limit_are_one_per_query():
    module = RTDETRHead(num_classes=2, embed_dims=8, num_pred_layer=2, as_two_stage=True, test_cfg=None)
    sample = small.sample([], [], SIZE)
    found = module.eval().predict([torch.rand(1, 3, 8)], [torch.tensor([BOXES])], [sample])[0]
    assert len(found) == 3


def test_without_layers_the_proposals_are_predicted():
    module = RTDETRHead(num_classes=2, embed_dims=8, num_pred_layer=1, as_two_stage=True, test_cfg=dict(max_per_img=2))
    logits, boxes = torch.tensor([[[2.0, -2.0], [-1.0, -3.0], [-2.0, 1.0]]]), torch.tensor([BOXES])
    for training in (True, False):
        found = module.train(training)([], [], (logits, boxes))
        assert found[0].equal(logits[None]) and found[1].equal(boxes[None])
    best = module.predict([], [], [small.sample([], [], SIZE)], (logits, boxes))[0]
    assert best.labels.tolist() == [0, 1]
    torch.testing.assert_close(best.scores, torch.tensor([2.0, 1.0]).sigmoid())
    torch.testing.assert_close(best.bboxes, torch.tensor([[20.0, 10.0, 60.0, 50.0], [100.0, 30.0, 180.0, 70.0]]))


def test_proposals_are_not_read_where_layers_ran():
    module = RTDETRHead(num_classes=2, embed_dims=8, num_pred_layer=2, as_two_stage=True).eval()
    states, boxes = [torch.rand(1, 3, 8)], [torch.tensor([BOXES])]
    told, alone = module(states, boxes, (torch.zeros(1, 3, 2), torch.zeros(1, 3, 4))), module(states, boxes)
    assert all(a.equal(b) for a, b in zip(told, alone, strict=True))


@pytest.mark.parametrize('loss', [dict(type='mmdet.CrossEntropyLoss'), dict(type='mmdet.VarifocalLoss')])
def test_a_class_loss_that_would_go_wrong_is_refused(loss):
    with pytest.raises(ValueError, match=rf"loss_cls=\{{'type': '{loss['type']}'\}} does not fit RTDETRHead"):
        head(loss_cls=loss)


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (dict(bbox_head__num_pred_layer=2), 'bbox_head.num_pred_layer=2 cannot be set: the detector knows it'),
        (dict(decoder__num_levels=2), 'decoder.num_levels=2 cannot be set: the detector knows it'),
        (dict(dn_cfg=dict(num_classes=3)), 'dn_cfg.num_classes=3 cannot be set: the detector knows it'),
        (dict(decoder__num_heads=5), 'embed_dims=32 of the decoder must be a multiple of num_heads=5'),
    ],
)
def test_what_the_detector_derives_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        small.detector(**changes)


def test_training_after_inference_mode():
    """Positions and anchors are kept from image to image, also those that were first made for a prediction."""
    model, size = small.detector(), (64, 224)
    with torch.inference_mode():
        model.eval()(small.images(2, size), mode='tensor')
    sum(model.train().loss(small.images(2, size), small.samples([1, 2], size)).values()).backward()
    assert small.without_gradient(model) == small.not_finite(model) == []
