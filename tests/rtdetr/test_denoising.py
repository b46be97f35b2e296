import pytest
import torch

from mmscale.rtdetr import ContrastiveDenoising

from . import small

CLASSES, QUERIES = 5, 7


def generator(**options):
    torch.manual_seed(0)
    return ContrastiveDenoising(CLASSES, 8, QUERIES, **options)


def groups_of(meta, boxes):
    """Boxes by image, group, positive or negative, object."""
    groups = meta['num_denoising_groups']
    return boxes.sigmoid().unflatten(1, (groups, 2, -1))


def corners(boxes):
    return torch.cat((boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), dim=-1)


def test_sizes_are_transformers():
    """Groups, lengths, positives and the mask, for images with different numbers of objects."""
    from transformers.models.rt_detr.modeling_rt_detr import get_contrastive_denoising_training_group

    batch = small.samples([3, 1, 0])
    query, boxes, mask, meta = generator()(batch)
    targets = [dict(class_labels=s.gt_instances.labels, boxes=torch.zeros(len(s.gt_instances), 4)) for s in batch]
    embed = torch.nn.Embedding(CLASSES + 1, 8)
    theirs = get_contrastive_denoising_training_group(targets, CLASSES, QUERIES, embed)
    assert query.shape == theirs[0].shape and boxes.shape == theirs[1].shape
    assert meta['num_denoising_groups'] == theirs[3]['dn_num_group'] == 100 // 3
    assert [meta['num_denoising_queries'], QUERIES] == theirs[3]['dn_num_split']
    assert mask.equal(theirs[2].isinf())
    each = meta['num_denoising_queries'] // meta['num_denoising_groups']
    for count, positives in zip([3, 1, 0], theirs[3]['dn_positive_idx'], strict=True):
        ours = [group * each + i for group in range(meta['num_denoising_groups']) for i in range(count)]
        assert positives.tolist() == ours  # where MMDetection's get_dn_targets looks for them


def test_positives_stay_near_and_negatives_do_not():
    box = torch.tensor([[40.0, 30.0, 60.0, 50.0]])  # far from the border
    batch = [small.sample(box, [1], (100, 100))]
    _, boxes, _, meta = generator(group_cfg=dict(dynamic=True, num_dn_queries=500))(batch)
    boxes = groups_of(meta, boxes)[0, :, :, 0]  # group, positive or negative
    moved = (corners(boxes) - box[0] / 100) / 0.2  # in sides of the box
    positive, negative = moved[:, 0].abs(), moved[:, 1].abs()
    assert 0.45 < positive.max() <= 0.5001 and positive.mean() == pytest.approx(0.25, abs=0.02)
    assert (moved[:, 0] > 0).float().mean() == pytest.approx(0.5, abs=0.05)
    apart = (boxes[:, 1, 2:] > 1e-4).all(-1)  # corners that passed each other make an empty box
    assert 100 < apart.sum() < 400
    assert negative[apart].min() >= 0.4999 and 0.95 < negative[apart].max() <= 1.0001


def test_of_several_objects_the_first_half_of_a_group_is_positive():
    """Far from the border, in boxes of one size, so that the noise alone tells them apart."""
    corner = torch.tensor([[20.0, 20.0], [50.0, 40.0], [30.0, 60.0]])
    batch = [small.sample(torch.cat((corner, corner + 10), dim=1), [0, 1, 2], (100, 100))]
    _, boxes, _, meta = generator(group_cfg=dict(dynamic=False, num_groups=50))(batch)
    moved = (corners(groups_of(meta, boxes)[0]) * 100 - batch[0].gt_instances.bboxes).abs() / 10
    positive, negative = moved.unbind(1)  # group, object, corner
    assert positive.max() <= 0.5001
    assert negative.amax(-1).min() >= 0.4999


def test_labels_change_in_half_of_the_scale():
    batch = [small.sample([[10, 10, 50, 50]], [2], (100, 100))]
    dn = generator(label_noise_scale=0.5, group_cfg=dict(dynamic=True, num_dn_queries=4000))
    query, *_ = dn(batch)
    kept = (query[0] == dn.label_embedding.weight[2]).all(-1).float().mean()
    assert kept == pytest.approx(0.75 + 0.25 / CLASSES, abs=0.02)  # a random label may be the right one


def test_no_noise_is_the_ground_truth():
    batch = small.samples([2], (100, 100))
    dn = generator(label_noise_scale=0.0, box_noise_scale=0.0)
    query, boxes, _, meta = dn(batch)
    truth = batch[0].gt_instances
    for group in range(meta['num_denoising_groups']):
        for sign in range(2):
            torch.testing.assert_close(corners(groups_of(meta, boxes)[0, group, sign]) * 100, truth.bboxes)
    torch.testing.assert_close(query[0, :2], dn.label_embedding(truth.labels))


def test_boxes_are_over_the_padded_size():
    dn = dict(label_noise_scale=0.0, box_noise_scale=0.0)
    _, boxes, _, _ = generator(**dn)([small.sample([[0, 0, 60, 80]], [0], (200, 120), image_size=(100, 100))])
    torch.testing.assert_close(boxes[0, 0].sigmoid(), torch.tensor([0.25, 0.2, 0.5, 0.4]))


def test_empty_places_hold_nothing():
    query, boxes, _, meta = generator()(small.samples([3, 1]))
    query = query.unflatten(1, (meta['num_denoising_groups'], 2, 3))
    assert not query[1, :, :, 1:].any() and query[0].any(-1).all()
    assert groups_of(meta, boxes)[1, :, :, 1:].max() < 2e-5


def test_groups_do_not_see_each_other_nor_the_matching_queries_them():
    _, _, mask, meta = generator(group_cfg=dict(dynamic=False, num_groups=2))(small.samples([2, 1]))
    each = 4  # two positives and two negatives
    for row in range(2 * each + QUERIES):
        for column in range(2 * each + QUERIES):
            dn_row, dn_column = row < 2 * each, column < 2 * each
            hidden = dn_column and (not dn_row or row // each != column // each)
            assert mask[row, column] == hidden


def test_matching_queries_do_not_depend_on_denoising():
    model = small.stirred(small.detector()).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    image = small.images()
    outs = []
    for seed in range(2):
        torch.manual_seed(seed)
        inputs = model._head_inputs(image, small.samples([2, 3], seed=seed))
        count = inputs['dn_meta']['num_denoising_queries']
        assert count > 0
        outs.append([x[:, count:] for x in (*inputs['hidden_states'], *inputs['boxes'])])
    for first, second in zip(*outs, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_a_batch_without_objects_has_none():
    query, boxes, mask, meta = generator()(small.samples([0, 0]))
    assert query.shape == (2, 0, 8) and boxes.shape == (2, 0, 4) and mask.shape == (QUERIES, QUERIES)
    assert meta['num_denoising_queries'] == 0 and not mask.any()


@pytest.mark.parametrize('name', ['label_noise_scale', 'box_noise_scale'])
def test_a_negative_noise_is_refused(name):
    with pytest.raises(ValueError, match=f'{name}=-0.5 of the denoising queries must not be negative'):
        generator(**{name: -0.5})
