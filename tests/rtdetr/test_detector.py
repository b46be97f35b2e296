"""The detector and its head: losses in any case, what a batch must not do, depths, necks, sentences."""

import copy

import pytest
import torch
from mmdet.models.task_modules.assigners import HungarianAssigner

from . import small


def trained(**changes):
    return small.stirred(small.detector(**changes))


def losses_of(model, counts=(3, 1), size=(96, 128), **options):
    torch.manual_seed(0)
    return model.loss(small.images(len(counts), size), small.samples(counts, size, **options))


@pytest.mark.parametrize('dn', [True, False])
@pytest.mark.parametrize('counts', [(3, 1), (0, 2), (0, 0)])
def test_every_parameter_learns_from_any_batch(dn, counts):
    """No parameter is unused, which DistributedDataParallel would not forgive."""
    model = trained(**({} if dn else dict(dn_cfg=None))).train()
    losses = losses_of(model, counts)
    assert all(value.isfinite() for value in losses.values())
    assert any(name.startswith('dn_') for name in losses) == dn
    sum(losses.values()).backward()
    assert small.without_gradient(model) == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_every_layer_has_its_losses():
    names = [
        f'{part}.{loss}' if part else loss
        for loss in ('loss_cls', 'loss_bbox', 'loss_iou')
        for part in ('', 'd0', 'd1')
    ]
    losses = losses_of(trained().train())
    expected = {*names, *(name.replace('loss_', 'dn_loss_') for name in names)}
    assert set(losses) == expected | {'enc_loss_cls', 'enc_loss_bbox', 'enc_loss_iou'}


def test_more_objects_than_queries():
    losses = losses_of(trained(num_queries=4).train(), (9, 1))
    assert all(value.isfinite() for value in losses.values())


def test_matching_and_losses_are_in_single_precision_under_mixed_precision(monkeypatch):
    kinds = []
    assign = HungarianAssigner.assign

    def spy(self, pred_instances, *args, **kwargs):
        kinds.extend([pred_instances.scores.dtype, pred_instances.bboxes.dtype, torch.is_autocast_enabled('cpu')])
        return assign(self, pred_instances, *args, **kwargs)

    monkeypatch.setattr(HungarianAssigner, 'assign', spy)
    model = trained().train()
    with torch.autocast('cpu', torch.bfloat16):
        losses = losses_of(model)
        assert model.memory_proj[0](torch.zeros(1, 32)).dtype is torch.bfloat16
    assert set(kinds) == {torch.float32, False}
    assert {value.dtype for value in losses.values()} == {torch.float32}
    exact = losses_of(model)
    for name in ('loss_cls', 'loss_bbox', 'loss_iou'):
        assert losses[name].item() == pytest.approx(exact[name].item(), rel=0.25)


@pytest.mark.parametrize('kind', ['CIoULoss', 'DIoULoss', 'EIoULoss', 'SIoULoss', 'IoULoss'])
def test_the_iou_loss_is_exchangeable(kind):
    plain, other = (losses_of(trained(**o).train()) for o in ({}, dict(bbox_head__loss_iou=dict(type=f'mmdet.{kind}'))))
    assert other['loss_iou'].isfinite() and other['loss_iou'].item() != pytest.approx(plain['loss_iou'].item())
    assert other['loss_bbox'].item() == pytest.approx(plain['loss_bbox'].item())


@pytest.mark.parametrize('kind', ['QualityFocalLoss', 'FocalLoss'])
def test_the_class_loss_is_exchangeable(kind):
    losses = losses_of(trained(bbox_head__loss_cls=dict(type=f'mmdet.{kind}', use_sigmoid=True)).train())
    assert all(value.isfinite() for value in losses.values()) and losses['loss_cls'] > 0


def test_a_box_on_its_object_costs_nothing():
    """L1 and GIoU vanish, and the class loss is told an IoU of 1."""
    model = small.detector(dn_cfg=None)
    head = model.bbox_head
    batch = small.samples([2], (96, 128))
    truth = batch[0].gt_instances
    size = torch.tensor([128.0, 96.0, 128.0, 96.0])
    boxes = torch.full((1, 5, 4), 0.9)
    corner, end = (truth.bboxes / size).split(2, dim=1)
    boxes[0, :2] = torch.cat(((corner + end) / 2, end - corner), dim=1)
    logits = torch.full((1, 5, 5), -30.0)
    logits[0, [0, 1], truth.labels] = 30.0
    found = head.loss_by_feat_single(logits, boxes, [truth], [dict(img_shape=(96, 128))])
    assert [value.item() for value in found] == pytest.approx([0, 0, 0], abs=1e-5)


def test_objects_are_divided_by_the_padded_size():
    """The same objects in the same batch: a smaller image inside it changes nothing for the loss."""
    model = trained(dn_cfg=None).train()
    whole = losses_of(model, (3, 2))
    inside = small.samples([3, 2], (96, 128))
    for sample in inside:
        sample.set_metainfo(dict(img_shape=(90, 100)))
    torch.manual_seed(0)
    padded = model.loss(small.images(2), inside)
    for name, value in whole.items():
        assert padded[name].item() == pytest.approx(value.item(), rel=1e-6), name


def test_predictions_return_to_the_pixels_of_a_padded_and_resized_image():
    model = small.detector(bbox_head__num_classes=1).eval()
    hidden = [torch.zeros(1, 1, 32)]
    boxes = [torch.tensor([[[0.25, 0.5, 0.25, 0.5]]])]  # of a batch of 100 x 200: 25..75 and 25..75
    sample = small.sample([], [], (100, 200), image_size=(60, 200))
    sample.set_metainfo(dict(scale_factor=(2.0, 0.5)))
    kept = model.bbox_head.predict(hidden, boxes, [sample], rescale=False)[0]
    torch.testing.assert_close(kept.bboxes, torch.tensor([[25.0, 25.0, 75.0, 60.0]]))  # clipped to the image
    found = model.bbox_head.predict(hidden, boxes, [sample])[0]
    torch.testing.assert_close(found.bboxes, torch.tensor([[12.5, 50.0, 37.5, 120.0]]))


def test_predictions_are_the_best_pairs_of_query_and_class():
    model = trained(test_cfg=dict(max_per_img=7)).eval()
    image, batch = small.images(1), small.samples([0])
    with torch.no_grad():
        logits, _ = model(image, mode='tensor')
        found = model.predict(image, batch)[0].pred_instances
    best, places = logits[-1, 0].sigmoid().flatten().sort(descending=True)
    torch.testing.assert_close(found.scores, best[:7])
    assert found.labels.tolist() == (places[:7] % 5).tolist()
    assert (found.bboxes[:, 2:] >= found.bboxes[:, :2]).all()


@pytest.mark.parametrize('counts', [(3, 1), (0, 0)], ids=str)
def test_a_decoder_without_layers_trains_and_predicts(counts):
    """The proposals are what is trained and found: the best pairs of their classes and boxes."""
    model = trained(decoder__num_layers=0, dn_cfg=None).train()
    losses = losses_of(model, counts)
    assert set(losses) == {'enc_loss_cls', 'enc_loss_bbox', 'enc_loss_iou'}
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert small.without_gradient(model) == small.not_finite(model) == []
    image = small.images(1)
    with torch.no_grad():
        memory = model.eval().pre_transformer(model.extract_feat(image))
        _, logits, boxes = model.select_queries(**memory, strides=[8, 16, 32])
        found = model(image, mode='tensor')
        best = model.predict(image, small.samples([0]))[0].pred_instances
    assert found[0].equal(logits[None]) and found[1].equal(boxes[None])
    torch.testing.assert_close(best.scores, logits[0].sigmoid().flatten().sort(descending=True).values[:30])


def test_the_losses_of_a_decoder_without_layers_are_the_proposals():
    """Those of a decoder with layers by the same proposals."""
    deep = trained(dn_cfg=None).train()
    flat = small.detector(decoder__num_layers=0, dn_cfg=None).train()
    weights = {
        name.replace('branches.3', 'branches.0'): value
        for name, value in deep.state_dict().items()
        if not name.startswith('decoder') and not any(f'branches.{i}.' in name for i in range(3))
    }
    flat.load_state_dict(weights)
    expected = losses_of(deep)
    for name, value in losses_of(flat).items():
        torch.testing.assert_close(value, expected[name])


def test_losses_without_layers_are_in_single_precision_under_mixed_precision(monkeypatch):
    kinds = []
    assign = HungarianAssigner.assign

    def spy(self, pred_instances, *args, **kwargs):
        kinds.extend([pred_instances.scores.dtype, pred_instances.bboxes.dtype, torch.is_autocast_enabled('cpu')])
        return assign(self, pred_instances, *args, **kwargs)

    monkeypatch.setattr(HungarianAssigner, 'assign', spy)
    with torch.autocast('cpu', torch.bfloat16):
        losses = losses_of(trained(decoder__num_layers=0, dn_cfg=None).train())
    assert set(kinds) == {torch.float32, False}
    assert {value.dtype for value in losses.values()} == {torch.float32}


@pytest.mark.parametrize('depth', [1, 2, 3])
def test_any_number_of_layers_serves_at_inference(depth):
    model = trained().eval()
    image = small.images(1)
    with torch.no_grad():
        full = model._head_inputs(image, None)
        model.decoder.num_eval_layers = depth
        logits, boxes = model(image, mode='tensor')
    torch.testing.assert_close(boxes[0], full['boxes'][depth - 1])
    torch.testing.assert_close(logits[0], model.bbox_head.cls_branches[depth - 1](full['hidden_states'][depth - 1]))


def test_images_of_a_batch_do_not_meet():
    model = small.calibrated(trained(), small.images(2))
    image = small.images(2)
    with torch.no_grad():
        whole = model(image, mode='tensor')
        single = [model(image[i : i + 1], mode='tensor') for i in range(2)]
    for i, both in enumerate(whole):
        torch.testing.assert_close(both, torch.cat([one[i] for one in single], dim=1), atol=1e-4, rtol=1e-4)


def test_training_looks_forward_twice():
    """The loss of layer 2 reaches the offsets of layer 1, and no further."""
    model = trained(dn_cfg=None).train()
    boxes = model._head_inputs(small.images(), small.samples([1, 1]))['boxes']
    weights = [model.bbox_head.reg_branches[i][4].weight for i in range(3)]
    reached = [g is not None and bool(g.any()) for g in torch.autograd.grad(boxes[2].sum(), weights, allow_unused=True)]
    assert reached == [False, True, True]


@pytest.mark.parametrize(
    'neck',
    [
        dict(type='mmdet.FPN', in_channels=[16, 32, 64], out_channels=24, num_outs=4, add_extra_convs='on_output'),
        dict(type='mmscale.FINEFPN', in_channels=[16, 32, 64], out_channels=32, num_outs=3),
    ],
)
def test_any_neck_that_says_its_levels_serves(neck):
    model = trained(neck=neck).train()
    assert model.decoder.num_levels == neck['num_outs']
    sum(losses_of(model).values()).backward()
    assert small.without_gradient(model) == []


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (dict(decoder__layers=4), 'decoder has no option layers=4: its options are num_layers, '),
        (dict(decoder__num_eval_layers=4), 'num_eval_layers=4 must be from 0 to num_layers=3'),
        (dict(decoder__num_layers=0), 'decoder.num_layers=0 leaves no layer for denoising queries: set dn_cfg=None'),
        (dict(decoder__num_layers=-1, dn_cfg=None), 'num_layers=-1 of the decoder must not be negative'),
        (dict(bbox_head__embed_dims=16), 'bbox_head.embed_dims=16 does not match decoder.embed_dims=32'),
        (dict(dn_cfg=dict(noise=1)), 'dn_cfg has no option noise=1: its options are label_noise_scale, '),
        (dict(neck__in_channels=[16, 32, 32]), None),
    ],
)
def test_a_wrong_config_is_one_sentence(changes, sentence):
    if sentence is None:
        with pytest.raises(ValueError, match=r'maps with \[16, 32, 64\] channels, but in_channels=\[16, 32, 32\]'):
            small.detector(**changes)(small.images(1), mode='tensor')
        return
    with pytest.raises(ValueError, match=sentence):
        small.detector(**changes)


def test_a_neck_that_does_not_say_its_levels_is_one_sentence():
    with pytest.raises(ValueError, match='RTDETR reads its levels from the neck, but Identity says neither'):
        small.detector(neck=dict(type=torch.nn.Identity))


def test_a_copy_is_its_own():
    model = trained().eval()
    other = copy.deepcopy(model)
    torch.nn.init.zeros_(other.bbox_head.cls_branches[2].weight)
    image = small.images(1)
    with torch.no_grad():
        assert not model(image, mode='tensor')[0].equal(other(image, mode='tensor')[0])
