import pytest
import torch
from mmdet.models.layers import inverse_sigmoid
from torch import nn

from mmscale.rtdetr import RTDETRDecoder

from . import small

SHAPES = [(6, 8), (3, 4)]
C, HEADS, QUERIES = 16, 2, 5


def decoder(**options):
    torch.manual_seed(0)
    options = {'num_layers': 3, **options}
    module = RTDETRDecoder(2, embed_dims=C, num_heads=HEADS, feedforward_channels=32, **options)
    module.init_weights()
    for parameter in module.parameters():  # layers apart from each other
        nn.init.normal_(parameter, std=0.2)
    branches = nn.ModuleList(nn.Linear(C, 4) for _ in range(options['num_layers']))
    return module, branches


def inputs(batch=2):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(batch, QUERIES, C, generator=generator)
    references = torch.rand(batch, QUERIES, 4, generator=generator) * 0.8 + 0.1
    memory = torch.randn(batch, 60, C, generator=generator)
    return query, references, memory, SHAPES


def literal_attention(attention, located, value):
    """Softmax of scaled products, head by head."""
    (wq, wk, wv), (bq, bk, bv) = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = located @ wq.T + bq, located @ wk.T + bk, value @ wv.T + bv
    width = C // HEADS
    heads = []
    for i in range(HEADS):
        part = slice(i * width, (i + 1) * width)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / width**0.5).softmax(-1)
        heads.append(weights @ v[..., part])
    return attention.out_proj(torch.cat(heads, dim=-1))


def test_the_figure_by_hand():
    """Position from the box, attention, deformable attention, feed-forward part, a step of the box; three times."""
    module, branches = decoder()
    module.eval()
    query, boxes, memory, shapes = inputs()
    states, refined = module(query, boxes, memory, shapes, branches)
    for layer, branch, state, after in zip(module.layers, branches, states, refined, strict=True):
        first, _, second = module.query_pos_head
        position = second(first(boxes).clamp(min=0))
        query = layer.norm1(query + literal_attention(layer.self_attn, query + position, query))
        query = layer.norm2(query + layer.cross_attn(query + position, boxes, memory, shapes))
        query = layer.norm3(query + layer.linear2(layer.linear1(query).clamp(min=0)))
        boxes = (branch(query) + (boxes / (1 - boxes)).log()).sigmoid()
        torch.testing.assert_close(state, query, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(after, boxes, atol=1e-5, rtol=1e-5)


def test_training_and_inference_give_the_same_values():
    module, branches = decoder()
    trained, inferred = module.train()(*inputs(), branches), module.eval()(*inputs(), branches)
    for a, b in zip([*trained[0], *trained[1]], [*inferred[0], *inferred[1]], strict=True):
        torch.testing.assert_close(a, b)


def test_a_layers_boxes_teach_the_layer_before_and_none_before_that():
    """Look forward twice; everything else of the layers before is a constant to the boxes."""
    module, branches = decoder()
    _, boxes = module.train()(*inputs(), branches)
    for i, layer in enumerate(boxes):
        gradients = torch.autograd.grad(
            layer.square().sum(), [b.weight for b in branches], retain_graph=True, allow_unused=True
        )
        assert [g is not None for g in gradients] == [j in (i - 1, i) for j in range(3)]


def test_the_step_before_is_taken_twice_in_the_gradient():
    """Box of layer 1: sigmoid(o1 + logit(sigmoid(o0 + r))), so o0 and o1 have the same gradient where o1 hides o0."""
    module, branches = decoder(num_layers=2)
    for layer in module.layers:  # a silent second layer: its offsets do not depend on the first one's
        nn.init.zeros_(layer.norm3.weight)
    _, boxes = module.train()(*inputs(), branches)
    first, second = torch.autograd.grad(boxes[1].sum(), [b.bias for b in branches])
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('layers', [0, 1, 2, 3])
def test_fewer_layers_at_inference_are_the_first_ones(layers):
    whole, branches = decoder()
    part, _ = decoder(num_eval_layers=layers)
    part.load_state_dict(whole.state_dict())
    expected, outs = whole.eval()(*inputs(), branches), part.eval()(*inputs(), branches)
    for ours, theirs in zip(outs, expected, strict=True):
        assert len(ours) == layers
        for a, b in zip(ours, theirs[:layers], strict=True):
            assert a.equal(b)
    assert len(part.train()(*inputs(), branches)[0]) == 3


def test_a_hidden_query_is_not_seen():
    module, branches = decoder()
    module.eval()
    query, *rest = inputs()
    mask = torch.zeros(QUERIES, QUERIES, dtype=torch.bool)
    mask[1:, 0] = True  # nobody but itself sees query 0
    other = query.clone()
    other[:, 0] += 1
    for masked, changes in ((mask, [True, False, False, False, False]), (None, [True] * 5)):
        outs = [module(q, *rest, branches, masked)[0][-1] for q in (query, other)]
        changed = (outs[0] - outs[1]).abs().amax(dim=(0, 2)) > 1e-5
        assert changed.tolist() == changes


def test_the_order_of_the_queries_does_not_matter():
    module, branches = decoder()
    module.eval()
    query, references, *rest = inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    state, boxes = (x[-1] for x in module(query, references, *rest, branches))
    state_, boxes_ = (x[-1] for x in module(query[:, order], references[:, order], *rest, branches))
    torch.testing.assert_close(state_, state[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(boxes_, boxes[:, order], atol=1e-5, rtol=1e-5)


def test_boxes_of_no_or_all_extent_stay_finite():
    """Proposals that are not used, (1, 1, 1, 1), may be chosen where there are few others."""
    module, branches = decoder()
    query, _, *rest = inputs()
    for value in (0.0, 1.0):
        _, boxes = module.train()(query, torch.full((2, QUERIES, 4), value), *rest, branches)
        total = sum(b.sum() for b in boxes)
        assert total.isfinite()
        gradients = torch.autograd.grad(total, [*module.parameters(), *branches.parameters()], allow_unused=True)
        assert all(g.isfinite().all() for g in gradients if g is not None)
    assert inverse_sigmoid(torch.tensor(1.0), eps=1e-5).item() == pytest.approx(11.513, abs=1e-3)


def test_an_overflow_in_the_feed_forward_part_is_no_nan():
    module, branches = decoder()
    layer = module.layers[0]
    nn.init.constant_(layer.linear2.bias, float('inf'))
    states, boxes = module.eval()(*inputs(), branches)
    assert all(x.isfinite().all() for x in (*states, *boxes))


@pytest.mark.parametrize('layers', [4, -1])
def test_a_number_of_layers_that_there_are_not_is_refused(layers):
    with pytest.raises(ValueError, match=f'num_eval_layers={layers} must be from 0 to num_layers=3'):
        decoder(num_eval_layers=layers)
    with pytest.raises(ValueError, match='num_layers=-1 of the decoder must not be negative'):
        RTDETRDecoder(2, num_layers=-1)


def test_without_layers_there_is_nothing_to_learn_and_nothing_comes():
    module, branches = decoder(num_layers=0)
    assert list(module.parameters()) == []
    for training in (True, False):
        assert module.train(training)(*inputs(), branches) == ([], [])


def test_the_detector_runs_with_fewer_layers():
    image = small.images(1)
    whole = small.stirred(small.detector()).eval()
    for layers in (0, 1, 2, 3):
        part = small.detector(decoder__num_eval_layers=layers)
        part.load_state_dict(whole.state_dict())
        with torch.no_grad():
            logits, boxes = part.eval()(image, mode='tensor')
            if layers:
                whole.bbox_head.train()  # which makes the head give every layer
                all_logits, all_boxes = whole(image, mode='tensor')
                whole.bbox_head.eval()
                expected = all_logits[layers - 1], all_boxes[layers - 1]
            else:
                memory = whole.pre_transformer(whole.extract_feat(image))
                _, *expected = whole.select_queries(**memory, strides=[8, 16, 32])
        assert len(logits) == len(boxes) == 1
        torch.testing.assert_close(logits[0], expected[0])
        torch.testing.assert_close(boxes[0], expected[1])
