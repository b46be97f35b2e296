"""DFuse equals loops over pixels, for maps of any number, width and size; it needs no MMYOLO."""

import pytest
import torch
from torch import nn

from mmscale.csf_net import DFuse

CASES = {
    'finer and coarser': ([4, 4, 4], [(8, 12), (2, 3), (4, 6)]),
    'other widths': ([3, 4, 5, 4], [(4, 6), (8, 12), (2, 3), (4, 6)]),
    'sizes that no factor joins': ([4, 2, 4], [(7, 5), (3, 4), (5, 9)]),
    'one pixel': ([4, 4], [(1, 1), (3, 2)]),
    'to one pixel': ([4, 4], [(3, 2), (1, 1)]),
    'one side alone': ([4, 4], [(4, 3), (4, 6)]),
    'same sizes': ([4, 4, 4, 4, 4], [(3, 4)] * 5),
    'one map': ([4], [(3, 4)]),
}


def inputs(widths, sizes, dtype=torch.double):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, width, *size, generator=generator, dtype=torch.double).to(dtype)
        for width, size in zip(widths, sizes, strict=True)
    ]


def fuse(widths, dtype=torch.double):
    torch.manual_seed(1)
    return DFuse(widths).to(dtype)


def literal(module, maps):
    """Pixel by pixel: the nearest index is floor(i * in / out)."""
    *others, reference = maps
    height, width = reference.shape[2:]
    rows = []
    for i in range(height):
        row = []
        for j in range(width):
            pixel = reference[:, :, i, j]
            for project, x in zip(module.project, others, strict=True):
                own = x[:, :, i * x.shape[2] // height, j * x.shape[3] // width]
                if x.shape[1] != reference.shape[1]:
                    own = own @ project.weight[:, :, 0, 0].T + project.bias
                pixel = pixel + own
            row.append(pixel)
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


@pytest.mark.parametrize('dtype, tolerance', [(torch.double, 1e-10), (torch.float, 1e-5)], ids=['double', 'single'])
@pytest.mark.parametrize('widths, sizes', CASES.values(), ids=CASES)
def test_it_equals_loops_over_pixels(widths, sizes, dtype, tolerance):
    """In values, and in gradients of every map and weight."""
    module = fuse(widths, dtype)
    maps = [x.requires_grad_() for x in inputs(widths, sizes, dtype)]
    leaves = [*maps, *module.parameters()]
    results = []
    for out in (module(maps), literal(module, maps)):
        weights = torch.linspace(-1, 1, out.numel()).to(out).view_as(out)
        results.append([out, *torch.autograd.grad((out * weights).sum(), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_one_map_is_itself():
    module, maps = fuse([4]), inputs([4], [(3, 5)])
    assert torch.equal(module(maps), maps[0]) and not list(module.parameters())


def test_only_other_widths_are_projected():
    module = fuse([4, 3, 4, 8, 4])
    assert [type(layer) for layer in module.project] == [nn.Identity, nn.Conv2d, nn.Identity, nn.Conv2d]
    assert sum(p.numel() for p in module.parameters()) == (3 * 4 + 4) + (8 * 4 + 4)


def test_the_last_map_is_the_reference():
    out = fuse([3, 6])(inputs([3, 6], [(8, 8), (2, 4)]))
    assert out.shape == (2, 6, 2, 4)
    out = fuse([6, 3])(inputs([6, 3], [(2, 4), (8, 8)]))
    assert out.shape == (2, 3, 8, 8)


def test_every_map_has_its_own_projection_in_the_order_of_the_maps():
    module, maps = fuse([2, 2, 4]), inputs([2, 2, 4], [(2, 2)] * 3)
    nn.init.zeros_(module.project[0].weight)
    nn.init.zeros_(module.project[0].bias)
    expected = maps[2] + torch.einsum('oi,bihw->bohw', module.project[1].weight[:, :, 0, 0], maps[1])
    torch.testing.assert_close(module(maps), expected + module.project[1].bias.view(-1, 1, 1))


def test_the_maps_stay_as_they_are():
    maps = inputs([4, 4], [(2, 2), (4, 4)])
    before = [x.clone() for x in maps]
    fuse([4, 4])(maps)
    assert all(map(torch.equal, maps, before))


def test_the_sum_does_not_depend_on_the_input():
    """Section 3.2 against the introduction: its weights are fixed, so it is linear but for the biases."""
    widths, sizes = CASES['other widths']
    module, maps = fuse(widths), inputs(widths, sizes)
    nothing = module([torch.zeros_like(x) for x in maps])
    torch.testing.assert_close(module([3 * x for x in maps]) - nothing, 3 * (module(maps) - nothing))


def test_no_width_is_refused():
    with pytest.raises(ValueError) as caught:
        DFuse([])
    assert str(caught.value) == 'in_channels=[] of DFuse names no map; the last one is the reference'


@pytest.mark.parametrize('widths', [[4], [4, 4, 4], [3, 4], [4, 3]], ids=str)
def test_other_maps_are_refused(widths):
    maps = inputs(widths, [(2, 2)] * len(widths))
    with pytest.raises(ValueError) as caught:
        DFuse([4, 4])(maps)
    assert str(caught.value) == f'DFuse got maps with {widths} channels, but in_channels=[4, 4]'
