import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones import ResNet
from torch import nn

from mmscale.hsd_detr import ReparamDownsample, SPDMixer
from mmscale.hsd_detr.spd_mixer import depth_to_space, space_to_depth
from mmscale.layers import MobileOneBlock, reparameterize
from mmscale.rtdetr import ResNetVd

from ..layers.test_reparam import stirred


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_order_by_hand():
    image = torch.tensor([[[[11, 12, 13, 14], [21, 22, 23, 24]], [[51, 52, 53, 54], [61, 62, 63, 64]]]])
    expected = [[11, 13], [51, 53], [21, 23], [61, 63], [12, 14], [52, 54], [22, 24], [62, 64]]
    assert space_to_depth(image)[0, :, 0].tolist() == expected


def test_the_order_of_equation_7():
    image = torch.rand(2, 3, 6, 8)
    quarters = image[..., 0::2, 0::2], image[..., 1::2, 0::2], image[..., 0::2, 1::2], image[..., 1::2, 1::2]
    assert space_to_depth(image).equal(torch.cat(quarters, dim=1))


@pytest.mark.parametrize('block', [1, 2, 3])
def test_is_pixel_unshuffle_in_another_order(block):
    x = torch.rand(2, 5, 4 * block, 3 * block)
    theirs = F.pixel_unshuffle(x, block).unflatten(1, (5, block, block)).permute(0, 3, 2, 1, 4, 5).flatten(1, 3)
    assert space_to_depth(x, block).equal(theirs)


@pytest.mark.parametrize('block', [1, 2, 3])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.uint8])
def test_nothing_is_lost(block, dtype):
    """Either function undoes the other, exactly."""
    image = (torch.rand(2, 3, 2 * block, 5 * block) * 255).to(dtype)
    deep = space_to_depth(image, block)
    assert deep.shape == (2, 3 * block**2, 2, 5)
    assert depth_to_space(deep, block).equal(image)
    deep = (torch.rand(2, 3 * block**2, 4, 1) * 255).to(dtype)
    assert space_to_depth(depth_to_space(deep, block), block).equal(deep)


@pytest.mark.parametrize(
    'function, shape, block, message',
    [
        (space_to_depth, (1, 3, 5, 6), 2, 'block=2 must divide the sides of x, 5 and 6'),
        (space_to_depth, (1, 3, 6, 5), 2, 'block=2 must divide the sides of x, 6 and 5'),
        (space_to_depth, (1, 3, 6, 6), 0, 'block=0 must be at least 1'),
        (depth_to_space, (1, 6, 2, 2), 2, 'the square of block=2 must divide the channels of x, 6'),
        (depth_to_space, (1, 6, 2, 2), -1, 'block=-1 must be at least 1'),
    ],
)
def test_wrong_arguments_are_one_sentence(function, shape, block, message):
    with pytest.raises(ValueError, match=message):
        function(torch.rand(shape), block)


def test_the_three_blocks():
    """Stride 1 to the embedding width, depthwise of stride 2, pointwise of stride 1."""
    blocks = [m for m in SPDMixer(out_channels=8, num_branches=3).modules() if isinstance(m, MobileOneBlock)]
    convs = [block.convs[0].conv for block in blocks]
    assert [c.in_channels for c in convs] == [12, 8, 8] and [c.out_channels for c in convs] == [8, 8, 8]
    assert [c.kernel_size for c in convs] == [(3, 3), (3, 3), (1, 1)]
    assert [c.stride for c in convs] == [(1, 1), (2, 2), (1, 1)]
    assert [c.groups for c in convs] == [1, 8, 1]
    assert [len(block.convs) for block in blocks] == [3, 3, 3]
    assert [(block.scale is not None, block.identity is not None) for block in blocks] == [
        (True, False),
        (True, False),
        (False, True),
    ]


def test_sees_the_pixels_through_its_blocks():
    stem, image = stirred(SPDMixer(out_channels=8)), torch.randn(2, 3, 8, 12)
    deep = torch.cat([image[..., row::2, col::2] for col in (0, 1) for row in (0, 1)], dim=1)
    expected = stem.downsample.pointwise(stem.downsample.depthwise(stem.embed(deep)))
    assert stem(image).equal(expected) and expected.any()


def test_parameters():
    stem = SPDMixer(out_channels=64)
    embed = (12 * 64 * 9 + 128) + (12 * 64 + 128)  # 3x3 and 1x1; 12 is not 64, so no identity
    depthwise = (64 * 9 + 128) + (64 + 128)  # stride 2, so no identity
    pointwise = (64 * 64 + 128) + 128  # 1x1 and the identity
    assert sum(p.numel() for p in stem.parameters()) == embed + depthwise + pointwise == 13184
    assert sum(p.numel() for p in reparameterize(stem).parameters()) == 12 * 64 * 9 + 64 * 9 + 64 * 64 + 3 * 64


@pytest.mark.parametrize('options, activation', [({}, nn.ReLU), (dict(act_cfg=dict(type='SiLU')), nn.SiLU)])
def test_options_reach_every_block(options, activation):
    stem = SPDMixer(in_channels=1, out_channels=8, norm_cfg=dict(type='GN', num_groups=2), **options)
    assert stem(torch.rand(2, 1, 9, 9)).shape == (2, 8, 3, 3)
    leaves = [type(m) for m in stem.modules() if not list(m.children())]
    assert leaves.count(nn.GroupNorm) == 6 and nn.BatchNorm2d not in leaves
    assert leaves.count(activation) == 3


SIZES = [(1, 1), (2, 3), (3, 2), (4, 4), (5, 6), (7, 8), (9, 5), (10, 11), (31, 33), (64, 98), (97, 67)]


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_sizes_are_those_of_a_resnet_s_stem(size):
    image = torch.rand(1, 3, *size)
    stem = SPDMixer(out_channels=8).eval()
    vd, plain = ResNetVd(depth=18, base_channels=8).eval(), ResNet(depth=18, base_channels=8)
    expected = vd.maxpool(vd.stem(image)).shape
    assert stem(image).shape == expected == plain.maxpool(plain.conv1(image)).shape
    assert expected == (1, 8, -(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize('size', [(7, 8), (9, 5), (10, 11), (31, 33)], ids=str)
def test_an_odd_image_is_seen_with_zeros_at_its_end(size):
    """So MMDetection pads it in a batch with larger ones, and no pixel is dropped."""
    stem, image = stirred(SPDMixer(out_channels=8)), torch.randn(2, 3, *size)
    padded = torch.zeros(2, 3, size[0] + size[0] % 2, size[1] + size[1] % 2)
    padded[..., : size[0], : size[1]] = image
    assert stem(image).equal(stem(padded))
    image.requires_grad_()
    (stem(image) ** 2).sum().backward()
    assert image.grad.abs().sum((0, 1)).all(), 'a pixel reaches no output'


def test_an_image_does_not_depend_on_the_others():
    stem, images = stirred(SPDMixer(out_channels=8)), torch.randn(3, 3, 17, 22)
    torch.testing.assert_close(stem(images), torch.cat([stem(image[None]) for image in images]))


@pytest.mark.parametrize('num_branches', [1, 3])
@pytest.mark.parametrize('dtype, atol', [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=['float', 'double'])
def test_becomes_three_convolutions(num_branches, dtype, atol):
    stem = stirred(SPDMixer(out_channels=16, num_branches=num_branches)).to(dtype)
    once = reparameterize(stem)
    twice = reparameterize(once)
    kinds = [type(m) for m in once.modules() if not list(m.children())]
    assert kinds == [nn.Conv2d, nn.ReLU] * 3
    image = torch.randn(2, 3, 35, 44, dtype=dtype)
    with torch.no_grad():
        torch.testing.assert_close(once(image), stem(image), atol=atol, rtol=atol)
        assert twice(image).equal(once(image))


def test_the_downsampling_stands_between_stages():
    module = stirred(ReparamDownsample(8, 16, num_branches=2))
    x = torch.randn(2, 8, 7, 10)
    assert module(x).shape == (2, 16, 4, 5)
    torch.testing.assert_close(reparameterize(module)(x), module(x), atol=1e-5, rtol=1e-5)
    assert module.pointwise.identity is None and module.depthwise.convs[0].conv.groups == 8


@pytest.mark.parametrize('size', [(32, 48), (33, 47)], ids=str)
def test_every_parameter_learns(size):
    stem = SPDMixer(out_channels=16, num_branches=2)
    out = stem(torch.randn(2, 3, *size))
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in stem.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize('folded', [False, True], ids=['trained', 'folded'])
@pytest.mark.parametrize('traced', [(32, 48), (33, 47)], ids=str)
def test_exported_with_open_sizes(traced, folded, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    stem = stirred(SPDMixer(out_channels=8))
    stem, path = reparameterize(stem) if folded else stem, str(tmp_path / 'stem.onnx')
    torch.onnx.export(
        stem,
        (torch.randn(2, 3, *traced),),
        path,
        input_names=['image'],
        output_names=['map'],
        dynamic_axes={'image': {0: 'batch', 2: 'height', 3: 'width'}, 'map': {0: 'batch', 2: 'h', 3: 'w'}},
        opset_version=17,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for batch, *size in [(2, *traced), (1, 64, 40), (3, 31, 42), (1, 18, 27), (1, 61, 33)]:
        image = torch.randn(batch, 3, *size)
        with torch.no_grad():
            expected = stem(image)
        found = torch.from_numpy(session.run(None, {'image': image.numpy()})[0])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_compiles_without_a_graph_break():
    stem = stirred(SPDMixer(out_channels=8))
    compiled = torch.compile(stem, fullgraph=True, backend='aot_eager', dynamic=False)
    with torch.no_grad():
        for size in [(16, 20), (17, 20)]:
            image = torch.randn(1, 3, *size)
            torch.testing.assert_close(compiled(image), stem(image))


def test_folds_norms_that_were_synchronised():
    stem = stirred(SPDMixer(out_channels=8, norm_cfg=dict(type='SyncBN')))
    image = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(reparameterize(stem)(image), stem(image), atol=1e-5, rtol=1e-5)
