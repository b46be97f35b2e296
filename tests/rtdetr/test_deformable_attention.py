import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch

from mmscale.rtdetr.deformable_attention import MultiScaleDeformableAttention, sample_levels

SHAPES = [(4, 6), (2, 3)]


def attention(**options):
    torch.manual_seed(0)
    module = MultiScaleDeformableAttention(embed_dims=8, num_heads=2, num_levels=2, num_points=3, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def inputs(batch=2, queries=3):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(batch, queries, 8, generator=generator).double()
    boxes = torch.rand(batch, queries, 4, generator=generator).double()
    memory = torch.randn(batch, 30, 8, generator=generator).double()
    return query, boxes, memory


def literal(module, query, boxes, memory):
    """Deformable DETR's eq. 3 word for word: a loop over everything, bilinear weights written out."""
    value = module.value_proj(memory).unflatten(-1, (2, 4))
    offsets = module.sampling_offsets(query).unflatten(-1, (2, 2, 3, 2))
    weights = module.attention_weights(query).unflatten(-1, (2, 6)).softmax(-1).unflatten(-1, (2, 3))
    rows = []
    for b in range(len(query)):
        for q in range(query.shape[1]):
            heads = []
            for m in range(2):
                total, start = 0, 0
                for level, (height, width) in enumerate(SHAPES):
                    for p in range(3):
                        x, y = boxes[b, q, :2] + offsets[b, q, m, level, p] / 3 * boxes[b, q, 2:] * 0.5
                        x, y = x * width - 0.5, y * height - 0.5  # pixel centres
                        sampled = 0
                        for row in (int(y.floor()), int(y.floor()) + 1):
                            for column in (int(x.floor()), int(x.floor()) + 1):
                                if 0 <= row < height and 0 <= column < width:  # zero outside
                                    share = (1 - (y - row).abs()) * (1 - (x - column).abs())
                                    sampled = sampled + share * value[b, start + row * width + column, m]
                        total = total + weights[b, q, m, level, p] * sampled
                    start += height * width
                heads.append(total)
            rows.append(module.output_proj(torch.cat(heads)))
    return torch.stack(rows).unflatten(0, query.shape[:2])


def test_it_is_the_literal_formula():
    module, arguments = attention(), inputs()
    torch.testing.assert_close(module(*arguments, SHAPES), literal(module, *arguments), atol=1e-9, rtol=1e-9)


def test_gradients_are_those_of_the_literal_formula():
    module = attention()
    gradients = []
    for form in (lambda *a: module(*a, SHAPES), lambda *a: literal(module, *a)):
        module.zero_grad()
        arguments = [x.requires_grad_() for x in inputs()]
        form(*arguments).square().sum().backward()
        gradients.append([x.grad for x in arguments] + [p.grad.clone() for p in module.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7)


def test_sampling_is_mmcvs():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 30, 2, 4, generator=generator)
    locations = torch.rand(2, 5, 2, 2, 3, 2, generator=generator) * 1.4 - 0.2  # some lie outside
    weights = torch.rand(2, 5, 2, 6, generator=generator)
    theirs = multi_scale_deformable_attn_pytorch(
        value, torch.tensor(SHAPES), locations, weights.unflatten(-1, (2, 3)).contiguous()
    )
    torch.testing.assert_close(sample_levels(value, SHAPES, locations, weights), theirs, atol=1e-5, rtol=1e-5)


def test_the_kernel_of_gpus_gets_what_it_takes(monkeypatch):
    """MMCV's CUDA kernel, for which its PyTorch form stands in here, knows the levels by tensors."""

    def kernel(value, sizes, starts, locations, weights, step):
        assert {x.dtype for x in (value, locations, weights)} == {torch.float32}
        assert sizes.tolist() == [[4, 6], [2, 3]] and starts.tolist() == [0, 24]
        assert all(x.is_contiguous() for x in (value, locations, weights))
        return multi_scale_deformable_attn_pytorch(value, sizes, locations, weights)

    monkeypatch.setattr(MultiScaleDeformableAttnFunction, 'apply', kernel)
    module, generator = attention().float(), torch.Generator().manual_seed(0)
    value = torch.randn(2, 30, 2, 4, generator=generator)
    locations = torch.rand(2, 5, 2, 2, 3, 2, generator=generator)
    weights = torch.rand(2, 5, 2, 6, generator=generator)
    expected = sample_levels(value, SHAPES, locations, weights)
    torch.testing.assert_close(module._attend_by_kernel(value, SHAPES, locations, weights), expected)


def test_images_of_a_batch_do_not_meet():
    module, (query, boxes, memory) = attention(), inputs()
    single = torch.cat([module(query[i : i + 1], boxes[i : i + 1], memory[i : i + 1], SHAPES) for i in range(2)])
    torch.testing.assert_close(module(query, boxes, memory, SHAPES), single)


def test_points_stay_in_single_precision_under_mixed_precision():
    """bfloat16 would round a place on a map of 80 by a quarter of a pixel."""
    module = attention().float()
    query, boxes, memory = (x.float() for x in inputs())
    with torch.autocast('cpu', torch.bfloat16):
        mixed = module(query, boxes, memory, SHAPES)
    torch.testing.assert_close(mixed.float(), module(query, boxes, memory, SHAPES), atol=0.1, rtol=0.1)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match='embed_dims must be divisible by num_heads, but got 10 and 4'):
        MultiScaleDeformableAttention(embed_dims=10, num_heads=4)
