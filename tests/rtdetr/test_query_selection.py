import pytest
import torch

from mmscale.rtdetr.detector import strides_of
from mmscale.rtdetr.query_selection import proposal_anchors

from . import small


def test_proposals_are_centred_squares_whose_side_follows_the_stride():
    logits, valid = proposal_anchors([(4, 8), (2, 4)], [8, 16])
    boxes = logits.sigmoid()[0]
    assert boxes.shape == (40, 4) and valid.all()
    for row in range(4):
        for column in range(8):
            expected = torch.tensor([(column + 0.5) / 8, (row + 0.5) / 4, 0.05, 0.05])
            torch.testing.assert_close(boxes[row * 8 + column], expected)
    torch.testing.assert_close(boxes[32], torch.tensor([0.125, 0.25, 0.1, 0.1]))


@pytest.mark.parametrize(('stride', 'side'), [(4, 0.025), (8, 0.05), (16, 0.1), (32, 0.2), (64, 0.4)])
def test_a_stride_has_its_side_whatever_its_place(stride, side):
    assert proposal_anchors([(3, 3)], [stride])[0].sigmoid()[0, 4, 2].item() == pytest.approx(side)


def test_proposals_at_the_border_are_not_used():
    """At 640x640 the outermost row of stride 8 is centred at 4 / 640 < 0.01."""
    logits, valid = proposal_anchors([(80, 80)], [8])
    inner = valid[0, :, 0].unflatten(0, (80, 80))
    assert inner[1:-1, 1:-1].all() and inner.sum() == 78 * 78
    assert logits[~valid.expand_as(logits)].isposinf().all() and logits[valid.expand_as(logits)].isfinite().all()


@pytest.mark.parametrize(('shapes', 'strides'), [([(80, 80)], [8]), ([(3, 4), (1, 1)], [32, 256])], ids=str)
def test_proposals_drawn_back_to_the_border_are_all_used(shapes, strides):
    """Those within the border are as they are; those beyond it, and those larger than the image, lie on it."""
    plain, inside = proposal_anchors(shapes, strides)
    logits, valid = proposal_anchors(shapes, strides, at_border=True)
    assert valid.all() and valid.shape == inside.shape and valid.dtype is torch.bool and logits.isfinite().all()
    assert not inside.all()
    inside = inside.expand_as(plain)
    assert logits[inside].equal(plain[inside])
    centres = [((x + 0.5) / w, (y + 0.5) / h, side, side) for (h, w), side in zip(shapes, sides(strides), strict=True)
               for y in range(h) for x in range(w)]  # fmt: skip
    torch.testing.assert_close(logits.sigmoid()[0], torch.tensor(centres).clamp(0.01, 0.99), atol=1e-5, rtol=1e-5)


def sides(strides):
    return [0.05 * stride / 8 for stride in strides]


@pytest.mark.parametrize(
    ('size', 'strides'),
    [((128, 160), [8, 16, 32]), ((97, 131), [8, 16, 32]), ((40, 97), [8, 16, 32]), ((97, 40), [8, 16, 32])],
)
def test_strides_are_read_from_the_maps(size, strides):
    model = small.detector().eval()
    image = small.images(1, size)
    assert strides_of(model.extract_feat(image), image) == strides


def test_a_stride_4_level_is_one_more_map():
    model = small.detector(backbone__out_indices=(0, 1, 2, 3), neck__in_channels=[8, 16, 32, 64]).eval()
    image = small.images(1)
    feats = model.extract_feat(image)
    assert strides_of(feats, image) == [4, 8, 16, 32]
    assert model.decoder.num_levels == 4
    logits, boxes = model(image, mode='tensor')
    assert logits.shape == (1, 1, 30, 5) and boxes.isfinite().all()


def selected(model, image):
    feats = model.extract_feat(image)
    memory = model.pre_transformer(feats)
    return memory, model.pre_decoder(**memory, strides=strides_of(feats, image), batch_data_samples=None)


def test_the_best_scored_positions_become_queries():
    model = small.stirred(small.detector(dn_cfg=None)).train()
    memory, (queries, head) = selected(model, small.images())
    anchors, valid = proposal_anchors(memory['shapes'], [8, 16, 32])
    proposals = model.memory_proj(memory['memory'] * valid)
    scores = model.bbox_head.cls_branches[3](proposals).max(-1).values
    for i in range(2):
        best = scores[i].argsort(descending=True)[:30]
        torch.testing.assert_close(queries['query'][i], proposals[i, best])
        boxes = (model.bbox_head.reg_branches[3](proposals[i, best]) + anchors[0, best]).sigmoid()
        torch.testing.assert_close(queries['references'][i], boxes)
        torch.testing.assert_close(head['enc_boxes'][i], boxes)
    assert not queries['query'].requires_grad and not queries['references'].requires_grad
    assert head['enc_boxes'].requires_grad and head['enc_logits'].requires_grad


def test_what_lies_at_the_border_proposes_nothing():
    """At a width of 480 the first and last column of stride 8 are centred at 4 / 480 < 0.01 from the edge."""
    model, image = small.stirred(small.detector(num_queries=400, dn_cfg=None)).train(), small.images(1, (32, 480))
    feats = model.extract_feat(image)
    memory = model.pre_transformer(feats)
    memory['memory'] = memory['memory'].detach()
    outs = []
    for place in (None, 0, 59, 1):  # corners of the first row, and what is beside
        changed = memory['memory'].clone()
        if place is not None:
            changed[:, place] += 1
        _, head = model.pre_decoder(changed, memory['shapes'], [8, 16, 32], None)
        outs.append(head['enc_logits'].sort(1).values)
    assert [out.equal(outs[0]) for out in outs] == [True, True, True, False]


def test_boxes_of_all_proposals_change_nothing():
    image, batch = small.images(), small.samples([2, 3])
    results = []
    for every in (False, True):
        model = small.stirred(small.detector(dn_cfg=None, box_all_proposals=every)).train()
        losses = model.loss(image, batch)
        sum(losses.values()).backward()
        results.append((losses, {name: p.grad for name, p in model.named_parameters()}))
    for ours, theirs in zip(*results, strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=1e-4)


def test_an_image_with_fewer_positions_than_queries_uses_all():
    model = small.detector().eval()
    logits, _ = model(small.images(1, (32, 32)), mode='tensor')
    assert logits.shape[2] == 16 + 4 + 1
    losses = model.train().loss(small.images(2, (32, 32)), small.samples([1, 2], (32, 32)))
    assert all(value.isfinite() for value in losses.values())
