import math

import pytest
import torch

from mmscale.rivals.mgc import MGCFPN, ContextCollector, ContextDistributor, ContextReasoning, cosine_attention

from .pyramid import maps, neck, stirred

COUNTS = [6, 5, 4, 3]


def mgc(**options):
    return stirred(neck(MGCFPN, contexts=COUNTS, **options)).eval()


def cosine(a, b):
    return (a @ b) / (a.norm().clamp(min=1e-6) * b.norm().clamp(min=1e-6))


def softmax(scores):
    weights = [score.exp() for score in scores]
    return [weight / sum(weights) for weight in weights]


def pixels(x):
    return [x[:, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])]


def collect(module, x):
    """Eq. 1, one image: a context is the average of the embedded pixels, weighed by their likeness to its entity."""
    embed = module.embed.weight[:, :, 0, 0]
    contexts = []
    for entity in module.entities:
        weights = softmax([math.sqrt(len(entity)) * cosine(entity, pixel) for pixel in pixels(x)])
        contexts.append(sum(w * (embed @ pixel) for w, pixel in zip(weights, pixels(x), strict=True)))
    return contexts


def reason(module, contexts):
    reduced = [(module.reduce.weight @ c + module.reduce.bias).relu() for c in contexts]
    heard = reduced
    if module.graph:
        scale = math.sqrt(len(reduced[0]))
        heard = []
        for one in reduced:
            weights = softmax([scale * cosine(one, other) for other in reduced])
            heard.append(sum(w * other for w, other in zip(weights, reduced, strict=True)))
    updated = [(module.update.weight @ h + module.update.bias).relu() for h in heard]
    return [c + module.expand.weight @ u + module.expand.bias for c, u in zip(contexts, updated, strict=True)]


def distribute(module, x, contexts):
    """Eq. 6 without its residual part, one image."""
    out = []
    for pixel in pixels(x):
        query = module.query.weight[:, :, 0, 0] @ pixel
        weights = softmax([math.sqrt(len(query)) * cosine(query, c) for c in contexts])
        read = sum(w * c for w, c in zip(weights, contexts, strict=True))
        out.append(module.out.weight[:, :, 0, 0] @ read)
    return torch.stack(out, dim=-1).reshape(-1, *x.shape[1:])


def small(count, *size):
    torch.manual_seed(0)
    return torch.randn(count, *size, requires_grad=True)


def close_with_gradients(module, fast, slow):
    """Both give the same, and the same gradients of inputs and weights."""
    results = []
    for forward in (fast, slow):
        module.zero_grad()
        out, inputs = forward()
        torch.manual_seed(5)
        (out * torch.randn(out.shape)).sum().backward()
        results.append([out, *(x.grad for x in inputs), *(p.grad.clone() for p in module.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_collector_is_the_literal_one():
    module = stirred(ContextCollector(6, 8, 4))

    def fast():
        x = small(2, 6, 3, 4)
        return module(x), [x]

    def slow():
        x = small(2, 6, 3, 4)
        return torch.stack([torch.stack(collect(module, image)) for image in x]), [x]

    close_with_gradients(module, fast, slow)


@pytest.mark.parametrize('graph', [True, False])
def test_reasoning_is_the_literal_one(graph):
    module = stirred(ContextReasoning(16, graph))

    def fast():
        x = small(2, 5, 16)
        return module(x), [x]

    def slow():
        x = small(2, 5, 16)
        return torch.stack([torch.stack(reason(module, list(image))) for image in x]), [x]

    close_with_gradients(module, fast, slow)


def test_distributor_is_the_literal_one():
    module = stirred(ContextDistributor(6, 8))

    def fast():
        x, contexts = small(2, 6, 3, 2), small(2, 5, 8)
        return module(x, contexts), [x, contexts]

    def slow():
        x, contexts = small(2, 6, 3, 2), small(2, 5, 8)
        return torch.stack([distribute(module, i, list(c)) for i, c in zip(x, contexts, strict=True)]), [x, contexts]

    close_with_gradients(module, fast, slow)


@pytest.mark.parametrize('read', ['own', 'all'])
def test_laterals_are_the_literal_ones(read):
    """All parts together, one image: eqs. 1-6 and FPN's lateral convolutions."""
    module, inputs = mgc(read=read), maps(32, 32)
    with torch.no_grad():
        own = [
            reason(r, collect(c, x[0])) for r, c, x in zip(module.mgc.reason, module.mgc.collect, inputs, strict=True)
        ]
        every = reason(module.mgc.reason_over_all, sum(own, []))
        laterals = module._laterals(inputs)
        start = 0
        for level, (part, x) in enumerate(zip(module.mgc.distribute, inputs, strict=True)):
            read_here = every if read == 'all' else every[start : start + COUNTS[level]]
            start += COUNTS[level]
            slow = module.lateral_convs[level](x)[0] + distribute(part, x[0], read_here)
            torch.testing.assert_close(laterals[level][0], slow, rtol=1e-4, atol=1e-4)


def test_a_constant_map_collects_its_own_value():
    """Whatever the entities are: an average of equal pixels."""
    module = ContextCollector(6, 8, 4)
    value = torch.randn(6)
    x = value[None, :, None, None].expand(1, 6, 5, 7)
    torch.testing.assert_close(module(x), (module.embed.weight[:, :, 0, 0] @ value).expand(1, 4, 8))


def test_attention_by_hand():
    """d = 4: similarities 1 and 0, scaled by 2."""
    keys = torch.tensor([[3.0, 0, 0, 0], [0, 5, 0, 0]])[None]
    expected = torch.tensor([[[math.exp(2), 1.0]]]) / (math.exp(2) + 1)
    torch.testing.assert_close(cosine_attention(torch.tensor([[[7.0, 0, 0, 0]]]), keys), expected)


def test_pixels_have_no_order():
    """Shuffling one level's pixels shuffles what that level gets, and changes nothing for the others."""
    module, inputs = mgc(), list(maps(32, 32))
    order = torch.randperm(inputs[1][0, 0].numel())
    shuffled = [x.clone() for x in inputs]
    shuffled[1] = shuffled[1].flatten(2)[..., order].reshape(inputs[1].shape)
    with torch.no_grad():
        before, after = module._laterals(inputs), module._laterals(shuffled)
    for level in (0, 2, 3):
        torch.testing.assert_close(after[level], before[level], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after[1].flatten(2), before[1].flatten(2)[..., order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'options, told',
    [(dict(), True), (dict(reasoning='pointwise'), False), (dict(reasoning='pointwise', read='all'), True)],
)
def test_levels_learn_of_each_other(options, told):
    """By reasoning over the graph or by reading all contexts; mapped alone and read by level they do not."""
    module, inputs = mgc(**options), list(maps(64, 64))
    other = [*inputs[:3], maps(64, 64, seed=9)[3]]
    with torch.no_grad():
        a, b = module._laterals(inputs)[0], module._laterals(other)[0]
    assert torch.allclose(a, b) is not told


def test_only_the_levels_in_use_count():
    module, inputs = neck(MGCFPN, contexts=COUNTS[:3], start_level=1, num_outs=3), list(maps())
    with torch.no_grad():
        a = module(inputs)
        b = module([torch.zeros_like(inputs[0]), *inputs[1:]])
    assert module.mgc.global_context(inputs[1:]).shape == (1, sum(COUNTS[:3]), 32)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


def test_regulariser_by_hand():
    """Orthonormal entities cost nothing; twice as long ones (4 - 1)^2 each."""
    module = neck(MGCFPN, contexts=COUNTS)
    torch.testing.assert_close(module.mgc.orthogonality(), torch.tensor(0.0), atol=1e-8, rtol=0)
    with torch.no_grad():
        module.mgc.collect[2].entities.mul_(2)
    torch.testing.assert_close(module.mgc.orthogonality(), torch.tensor(9.0 * COUNTS[2]))
    module.mgc.orthogonality().backward()
    assert (module.mgc.collect[2].entities.grad != 0).any()


def test_a_black_pixel_is_no_division_by_zero():
    module, inputs = mgc(), list(maps(32, 32))
    inputs[0] = torch.zeros_like(inputs[0]).requires_grad_()
    sum(out.sum() for out in module(inputs)).backward()
    assert inputs[0].grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
