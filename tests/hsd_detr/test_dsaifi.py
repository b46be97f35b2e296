"""DSAIFI: its size, its options, in RT-DETR's encoder and before other necks. Values and gradients: test_agsa.py."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import nn

from mmscale.hsd_detr import AGSA, DSAIFI, DSAIFINeck
from mmscale.rtdetr import HybridEncoder

from ..test_contract import neck, pyramid, rtdetr, rtdetr_parts, sample
from .test_agsa import images, parameters, seed, stirred_weights  # noqa: F401 (a fixture)
from .test_ss2d import count, weighed

# The block ------------------------------------------------------------------------------------------------------------


def test_parameters_by_hand():
    """RT-DETR's width of 256: 64 channels attend, the gate has 64 hidden channels."""
    agsa = 2 * 64 + (64 * 192 + 192) + (512 * 64 + 64) + (64 + 1) + (256 * 256 + 256)
    feedforward = (256 * 1024 + 1024) + (1024 * 256 + 256)
    assert count(AGSA(256)) == agsa
    assert count(DSAIFI(256)) == agsa + 4 * 256 + feedforward == 637_889
    assert count(DSAIFI(256, 512, 3)) == agsa + 4 * 256 + 2 * (9 * 256 * 512) + 512 + 256
    assert count(AGSA(256, gate_channels=8)) == agsa - (512 * 64 + 64) - 65 + (512 * 8 + 8) + 9
    assert count(AGSA(256, num_heads=8)) == agsa
    # half of 32 channels attend
    assert count(AGSA(32, 0.5)) == 32 + (16 * 48 + 48) + (64 * 8 + 8) + 9 + (32 * 32 + 32)


def test_a_kernel_of_three_sees_neighbours():
    """But keeps the size; of 1x1 only attention sees others."""
    for kernel, neighbours in ((1, 1), (3, 25)):
        module = stirred_weights(DSAIFI(16, 6, kernel))
        nn.init.zeros_(module.agsa.proj[1].weight)
        x = images(1, size=(7, 7))
        other = x.clone()
        other[..., 3, 3] += torch.randn(16, dtype=torch.float64)
        assert (module(other) != module(x)).any(1).sum() == neighbours, 'two convolutions'


def test_dropout_in_all_three_places():
    module = DSAIFI(16, 6, dropout=0.3)
    assert [m.p for m in module.modules() if isinstance(m, nn.Dropout)] == [0.3] * 3
    x = images(dtype=torch.float32)
    module.eval()
    assert module(x).equal(module(x))
    for dropout in (module.dropout, module.feedforward[2], module.feedforward[4]):
        dropout.train()
        assert not module(x).equal(module(x))
        dropout.eval()


def test_all_dropped_is_the_normed_input():
    """Both residual parts at zero: two norms, one after the other."""
    module, x = stirred_weights(DSAIFI(16, 6, dropout=1.0)).train(), images()

    def normed(norm, x):
        return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    torch.testing.assert_close(module(x), normed(module.norm2, normed(module.norm1, x)))


def test_every_parameter_gets_a_gradient_and_starts_as_pytorchs():
    module = DSAIFI(16, 6)
    for parameter in module.parameters():
        parameter.data.fill_(9.0)
    module.init_weights()
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.5 * bound < layer.weight.abs().max() <= bound
    weighed(module(images(dtype=torch.float32))).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize(
    'cls, options, message',
    [
        (AGSA, dict(active_ratio=0.0), 'active_ratio=0.0 of channels=16 leaves 0 active channels'),
        (AGSA, dict(active_ratio=0.05), 'active_ratio=0.05 of channels=16 leaves 0 active channels'),
        (AGSA, dict(active_ratio=1.5), 'active_ratio=1.5 of channels=16 leaves 24 active channels'),
        (AGSA, dict(num_heads=3), 'num_heads=3 of AGSA does not divide its 4 active channels'),
        (AGSA, dict(num_heads=0), 'num_heads=0 of AGSA does not divide its 4 active channels'),
        (AGSA, dict(gate='soft'), r"gate='soft' of AGSA is none of \('straight_through', 'literal'\)"),
        (AGSA, dict(temperature=0.0), 'temperature=0.0 of AGSA should be positive'),
        (DSAIFI, dict(feedforward_kernel_size=2), 'feedforward_kernel_size=2 of DSAIFI should be odd'),
        (DSAIFI, dict(feedforward_channels=0), 'feedforward_channels=0 of DSAIFI should be 1 or more'),
        (AGSA, dict(gate_channels=0), 'gate_channels=0 of AGSA should be 1 or more'),
        (DSAIFI, dict(feedforward_kernel_size=-1), 'feedforward_kernel_size=-1 of DSAIFI should be odd'),
        (DSAIFI, dict(agsa=dict(heads=2)), 'agsa has no option heads=2: its options are active_ratio, num_heads, gate'),
        (DSAIFI, dict(agsa=dict(num_heads=5)), 'num_heads=5 of AGSA does not divide'),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_sentence(cls, options, message):
    with pytest.raises(ValueError, match=f'^{message}'):
        cls(16, **options)


# In detectors ---------------------------------------------------------------------------------------------------------


DSAIFI_CFG = dict(type='mmscale.DSAIFI', feedforward_channels=32, agsa=dict(num_heads=2))


def test_in_the_place_of_aifi():
    neck_cfg = {**rtdetr_parts()['neck'], 'aifi': DSAIFI_CFG}
    encoder = MODELS.build(neck_cfg)
    assert isinstance(encoder, HybridEncoder) and isinstance(encoder.aifi, DSAIFI)
    maps = [torch.randn(2, *shape) for shape in pyramid()]
    outs = encoder(maps)
    projected = [conv(x) for conv, x in zip(encoder.input_proj, maps, strict=True)]
    before = encoder.aifi(projected[-1])
    encoder.aifi = nn.Identity()
    encoder.input_proj[-1] = nn.Identity()
    encoder.in_channels[-1] = 32
    for a, b in zip(encoder([*maps[:2], before]), outs, strict=True):
        torch.testing.assert_close(a, b)


def test_rt_detr_learns_with_it():
    """Three steps on one batch: the loss falls, and every part of DSAIFI moves, its gate too."""
    model = rtdetr(dict(neck={**rtdetr_parts()['neck'], 'aifi': DSAIFI_CFG}))
    model.init_weights()
    block = model.train().neck.aifi
    before = {name: p.detach().clone() for name, p in block.named_parameters()}
    optimizer, totals = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    image = torch.randn(2, 3, 96, 128)
    for _ in range(4):
        torch.manual_seed(1)  # the same denoising queries
        losses = model.loss(image, [sample(2), sample(1)])
        total = sum(value for name, value in losses.items() if 'loss' in name)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    assert not [name for name, p in block.named_parameters() if p.equal(before[name])]


# The neck -------------------------------------------------------------------------------------------------------------


def maps(widths=(16, 32, 16)):
    return [torch.randn(2, c, *s) for c, s in zip(widths, [(8, 6), (4, 3), (2, 2)], strict=True)]


@pytest.mark.parametrize('levels', [None, [2], [0, 1], [0, 1, 2]], ids=str)
def test_only_the_named_maps_take_part(levels):
    module, inputs = DSAIFINeck([16, 32, 16], levels, feedforward_channels=6).eval(), maps()
    outs, levels = module(inputs), levels or [2]
    assert isinstance(outs, tuple) and len(module.blocks) == len(levels)
    blocks = dict(zip(levels, module.blocks, strict=True))
    for i, (out, x) in enumerate(zip(outs, inputs, strict=True)):
        assert out.equal(blocks[i](x)) if i in blocks else out is x
    assert module.blocks[0].feedforward[0].out_channels == 6


@pytest.mark.parametrize(
    'arguments, options, message',
    [
        (([],), {}, r'in_channels=\[\] of DSAIFINeck names no map'),
        (([16, 32], []), {}, r'levels=\[\] of DSAIFINeck leaves no map of 2'),
        (([16, 32], [2]), {}, r'levels=\[2\] of DSAIFINeck names level 2, but in_channels has the levels 0 to 1'),
        (([16, 32], [1, 0]), {}, r'levels=\[1, 0\] of DSAIFINeck should be ascending, each level once'),
        (([16, 32],), dict(heads=2), 'DSAIFINeck has no option heads=2: its options are feedforward_channels, '),
    ],
    ids=str,
)
def test_wrong_arguments_of_the_neck_are_one_sentence(arguments, options, message):
    with pytest.raises(ValueError, match=f'^{message}'):
        DSAIFINeck(*arguments, **options)


@pytest.mark.parametrize('widths', [(16, 32), (16, 32, 17)], ids=str)
def test_wrong_maps_are_one_sentence(widths):
    inputs = [torch.randn(1, c, 2, 2) for c in widths]
    with pytest.raises(ValueError, match=r'^DSAIFINeck got maps with \[.*\] channels, but in_channels=\[16, 32, 16\]$'):
        DSAIFINeck([16, 32, 16], feedforward_channels=6)(inputs)


def test_before_an_fpn_in_a_retinanet():
    fpn = {**neck('FPN'), 'type': 'FPN'}
    before = dict(type='mmscale.DSAIFINeck', in_channels=fpn['in_channels'], feedforward_channels=32)
    anchors = dict(
        type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[8, 16, 32, 64, 128]
    )
    model = MODELS.build(
        ConfigDict(
            type='RetinaNet',
            backbone=dict(type='ResNet', depth=18, base_channels=8),
            neck=[before, fpn],
            bbox_head=dict(
                type='RetinaHead',
                num_classes=3,
                in_channels=32,
                feat_channels=32,
                stacked_convs=1,
                anchor_generator=anchors,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            ),
            train_cfg=dict(
                assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
                sampler=dict(type='PseudoSampler'),
                allowed_border=-1,
                pos_weight=-1,
            ),
            test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.6), max_per_img=20),
        )
    )
    model.init_weights()
    image = torch.randn(2, 3, 96, 128)
    losses = model.train().loss(image, [sample(2), sample(1)])
    sum(sum(loss) for loss in losses.values()).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.neck[0].parameters())
    with torch.no_grad():
        found = model.eval().predict(image, [sample(0), sample(0)])
    assert [len(result.pred_instances) for result in found] == [20, 20]
