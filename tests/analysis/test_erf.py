"""ERFs that are known: of linear convolutions, strides and pooling; and the command line."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from mmscale.analysis.detector import load_detector
from mmscale.analysis.erf import LayerERF, edge_share, erf_size, measure_erf, stage_ratios, token_index
from mmscale.analysis.erf_command import main
from mmscale.analysis.erf_pictures import window_of


def boxes(*layers, **kwargs) -> nn.Sequential:
    """Convolutions with constant weights; each layer is (kernel, stride)."""
    stack = nn.Sequential(*(nn.Conv2d(1, 1, k, s, k // 2, bias=False, **kwargs) for k, s in layers)).double()
    for parameter in stack.parameters():
        nn.init.constant_(parameter, 0.25)
    return stack


def measure(model, size=(96, 96), layers=None, number=1, channels=1, **kwargs):
    torch.manual_seed(0)
    images = [(torch.randn(1, channels, *size, dtype=torch.float64), model) for _ in range(number)]
    return measure_erf(model, images, layers or [str(len(model) - 1)], **kwargs)


@pytest.mark.parametrize('number, kernel', [(1, 3), (3, 3), (8, 3), (2, 5), (3, 7)])
def test_stack_of_convolutions(number, kernel):
    (result,) = measure(boxes(*[(kernel, 1)] * number))
    # n independent uniform steps of width k: variance n (k^2 - 1) / 12
    assert result.sigma == pytest.approx(math.sqrt(number * (kernel**2 - 1) / 12), rel=1e-12)
    profile = np.ones(1)
    for _ in range(number):
        profile = np.convolve(profile, np.ones(kernel) / kernel)
    reach = len(profile) // 2
    wanted = np.zeros((96, 96))
    wanted[48 - reach : 49 + reach, 48 - reach : 49 + reach] = np.outer(profile, profile)
    np.testing.assert_allclose(result.heat, wanted, atol=1e-15)
    assert not result.cut


def test_strides_and_pooling():
    model = boxes((7, 2), (3, 2), (3, 1), (3, 2))
    results = measure(model, (256, 256), ['0', '1', '2', '3', '3/2', '3/4'])
    # a step of a layer is as wide as the product of the strides before it
    variances = np.cumsum([48, 8 * 2**2, 8 * 4**2, 8 * 4**2]) / 12
    pooled = [variances[-1] + (pool**2 - 1) * 8**2 / 12 for pool in (2, 4)]
    np.testing.assert_allclose([r.sigma for r in results], np.sqrt([*variances, *pooled]), rtol=1e-12)
    assert [r.stride for r in results] == [2, 4, 4, 8, 16, 32]
    assert stage_ratios(results)[0] == pytest.approx(math.sqrt(80 / 48))


def test_rectangular_kernel_is_the_mean_of_both_variances():
    model = nn.Sequential(nn.Conv2d(1, 1, (3, 7), padding=(1, 3), bias=False)).double()
    nn.init.ones_(model[0].weight)
    (result,) = measure(model)
    assert result.sigma == pytest.approx(math.sqrt((8 + 48) / 12 / 2), rel=1e-12)


def test_magnitude_counts_and_not_the_sign():
    model = boxes((3, 1))
    with torch.no_grad():
        model[0].weight[..., ::2, :] *= -1  # signs alternate, magnitudes do not
    assert measure(model)[0].sigma == pytest.approx(math.sqrt(8 / 12), rel=1e-12)


def test_input_channels_add_up():
    model = nn.Sequential(nn.Conv2d(2, 1, 3, padding=1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[0, 0, 1, 0] = 3  # the first channel, left
        model[0].weight[0, :, 1, 2] = torch.tensor([1.0, -1.0])  # both channels, right: they do not cancel
    (result,) = measure(model, channels=2)
    np.testing.assert_allclose(result.heat[48, [47, 48, 49]], [0.6, 0, 0.4])
    # along x: mean -0.2, variance 1 - 0.04; along y none
    assert result.sigma == pytest.approx(math.sqrt(0.96 / 2))


def test_batch_norm_is_fixed_and_modes_come_back():
    model = nn.Sequential(*boxes((3, 1)), nn.BatchNorm2d(1), nn.Dropout(0.9), *boxes((3, 1))).double().train()
    assert measure(model)[0].sigma == pytest.approx(math.sqrt(2 * 8 / 12), rel=1e-12)  # in train mode it spreads
    assert all(module.training for module in model.modules())
    assert model[1].num_batches_tracked == 0


def test_position():
    assert token_index((0.5, 0.5), (25, 8)) == (12, 4)
    assert token_index((1.0, 0.0), (25, 8)) == (0, 7)
    (result,) = measure(boxes((3, 2)), (40, 80), position=(0.3, 0.75))
    # token (15, 12) of a 20 x 40 map with stride 2 and padding 1 is centred on pixel (30, 24)
    assert erf_size(result.heat)[1] == (pytest.approx(24), pytest.approx(30))
    assert result.cell == (24, 30, 26, 32) and result.anchor == (24, 30)
    with pytest.raises(ValueError, match=r'position=\(0.5, 1.5\) must be two shares'):
        measure(boxes((3, 1)), position=(0.5, 1.5))


def test_border_cuts():
    model = boxes(*[(7, 1)] * 6)
    whole, cut = (measure(model, size)[0] for size in ((96, 96), (16, 16)))
    assert not whole.cut and cut.cut and cut.sigma < whole.sigma
    assert edge_share(np.ones((40, 20))) == pytest.approx(1 - 36 * 18 / 800)


def test_average_over_images():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2)).double()
    (result,) = measure(model, number=3)
    assert len(set(result.sigmas)) == 3  # the ReLU makes it depend on the image
    assert result.sigma == pytest.approx(sum(result.sigmas) / 3)
    assert result.heat.sum() == pytest.approx(1)


def test_tokens_without_gradient():
    model = boxes((3, 1))
    model.append(nn.ReLU())
    images = [(torch.full((1, 1, 32, 32), value, dtype=torch.float64), model) for value in (-1.0, 1.0)]
    (result,) = measure_erf(model, images, ['1'])
    assert result.dead == 1 and len(result.sigmas) == 1  # the ReLU is off in the first image
    with pytest.raises(ValueError, match=r"layer '1' has no gradient to the image at position \(0.5, 0.5\)"):
        measure_erf(model, images[:1], ['1'])


class Centred(nn.Module):
    """The mean over channels subtracted, as a LayerNorm does."""

    def forward(self, x):
        return x - x.mean(1, keepdim=True)


def test_channels_that_add_up_to_a_constant():
    torch.manual_seed(0)
    # one pattern, all ones, times a weight per channel: every mix of channels has the same shape
    model = nn.Sequential(*boxes((3, 1)), nn.Conv2d(1, 8, 1), Centred()).double()
    with pytest.raises(ValueError, match="channels of layer '2' add up to a constant, as behind a LayerNorm"):
        measure(model)
    assert measure(model, response='signs')[0].sigma == pytest.approx(math.sqrt(8 / 12), rel=1e-9)
    with pytest.raises(ValueError, match="response='max' is unknown"):
        measure(model, response='max')


def test_size_of_nothing():
    with pytest.raises(ValueError, match='must have a positive, finite sum, but it is 0.0'):
        erf_size(np.zeros((3, 3)))


def test_ratio_is_that_of_the_means():
    low, high = LayerERF('a', sigmas=[1.0, 3.0]), LayerERF('b', sigmas=[4.0, 6.0])
    assert stage_ratios([low, high]) == [2.5]  # not the mean of 4 and 2


def run(*argv, capsys) -> str:
    main([str(argument) for argument in argv])
    return capsys.readouterr().out


def refused(*argv, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in argv])
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_command(one_stage, tmp_path, capsys):
    out, report = tmp_path / 'pictures' / 'erf.png', tmp_path / 'erf.json'
    said = run(one_stage, '--shape', 96, 128, '--num-images', 2, '--out', out, '--json', report, capsys=capsys)
    assert 'one_stage, random weights (seed 0); images: 2 of random pixels' in said
    assert 'of 96x128 pixels' in said and 'mean ratio of adjacent layers' in said
    content = json.loads(report.read_text())
    assert [layer['layer'] for layer in content['layers']] == [f'backbone:out{i}' for i in range(4)]
    assert [layer['stride'] for layer in content['layers']] == [4, 8, 16, 32]
    assert content['mean_ratio'] == pytest.approx(sum(content['ratios']) / 3)
    assert out.read_bytes().startswith(b'\x89PNG') and [p.name for p in out.parent.iterdir()] == ['erf.png']


def test_command_for_figure_6(one_stage, tmp_path, capsys):
    out, report = tmp_path / 'pair.png', tmp_path / 'pair.json'
    pair = ('--pair', 'backbone.layer3', 'backbone.layer4', '--ratios', 1, 2, '--kernel', 2, '--position', 0.1, 0.1)
    said = run(one_stage, *pair, '--shape', 128, '--num-images', 1, '--out', out, '--json', report, capsys=capsys)
    content = json.loads(report.read_text())
    names = ['backbone.layer3/2', 'backbone.layer3/4', 'backbone.layer4/2']
    assert [layer['layer'] for layer in content['layers']] == names
    assert [layer['stride'] for layer in content['layers']] == [32, 64, 64]
    assert all(name in said for name in names) and 'low / high' in said and out.is_file()


def test_command_with_weights_and_images(one_stage, tmp_path, capsys):
    import cv2

    detector = load_detector(one_stage, seed=5)
    torch.save(dict(state_dict=detector.model.state_dict(), meta={}), tmp_path / 'five.pth')
    pipeline = (
        "dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), "
        "dict(type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor'))"
    )
    one_stage.write_text(one_stage.read_text() + f'\ntest_dataloader = dict(dataset=dict(pipeline=[{pipeline}]))\n')
    folder = tmp_path / 'images'
    folder.mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{index}.png'), noise)
    report = tmp_path / 'erf.json'
    options = ('--layers', 'neck:out0', '--images', folder, '--json', report)
    sigmas = []
    for weights in (('--checkpoint', tmp_path / 'five.pth'), ('--seed', 5), ('--seed', 6)):
        said = run(one_stage, *options, *weights, capsys=capsys)
        assert 'images: 3 of' in said and 'of 64x96 pixels' in said  # padded to multiples of 32
        sigmas.append(json.loads(report.read_text())['layers'][0]['sigmas'])
    assert sigmas[0] == sigmas[1] != sigmas[2]
    run(one_stage, *options, '--num-images', 1, '--seed', 5, capsys=capsys)
    assert json.loads(report.read_text())['layers'][0]['sigmas'] == sigmas[0][:1]
    (folder / '1.png').write_bytes(b'no picture')
    line = refused(one_stage, *options, capsys=capsys)
    assert line.startswith("error: image '") and "1.png' cannot be decoded" in line


def test_pretrained(one_stage, tmp_path, capsys):
    detector = load_detector(one_stage, seed=5)
    torch.save(detector.model.backbone.state_dict(), tmp_path / 'backbone.pth')
    key = 'model.backbone.init_cfg.checkpoint'
    loaded = load_detector(one_stage, pretrained=True, cfg_options={key: str(tmp_path / 'backbone.pth')})
    for name, weight in detector.model.backbone.state_dict().items():
        assert torch.equal(loaded.model.backbone.state_dict()[name], weight), name
    line = refused(one_stage, '--pretrained', '--cfg-options', f'{key}={tmp_path}/none.pth', capsys=capsys)
    assert 'pretrained weights of config' in line and 'none.pth' in line


def test_mistakes(one_stage, two_stage, deeper_one_stage, tmp_path, capsys):
    def says(*argv):
        return refused(*argv, capsys=capsys)

    assert 'did you mean backbone.layer4' in says(one_stage, '--layers', 'backbone.layer5')
    assert "picture 'erf.txt' should end in one of" in says(one_stage, '--out', 'erf.txt')
    assert "'none' does not exist" in says(one_stage, '--images', tmp_path / 'none').replace(str(tmp_path) + '/', '')
    assert 'has no test_dataloader.dataset' in says(one_stage, '--test-set')
    assert '--num-images 0 must be' in says(one_stage, '--num-images', 0)
    assert 'must not pool' in says(one_stage, '--pair', 'backbone.layer3/2', 'backbone.layer4')
    assert '--ratios 0 2 must be' in says(one_stage, '--pair', 'a', 'b', '--ratios', 0, 2)
    assert 'takes the place of' in says(one_stage, '--pair', 'a', 'b', '--layers', 'a')
    assert "device 'gpu' cannot be used" in says(one_stage, '--device', 'gpu')
    regions = ('--layers', 'roi_head.bbox_roi_extractor', '--shape', 64, '--num-images', 1)
    assert 'maps for one image (of its regions?)' in says(two_stage, *regions)
    torch.save(load_detector(deeper_one_stage).model.state_dict(), tmp_path / 'deeper.pth')
    line = says(one_stage, '--checkpoint', tmp_path / 'deeper.pth')
    assert 'belongs to another model' in line and 'bbox_head.cls_convs.1' in line


def test_the_window_holds_every_field():
    """At a corner the token of a coarse map lies far from the position, whose own surroundings would be black."""
    fine, coarse = (LayerERF(name, heat=np.zeros((64, 64)), anchor=(64.0, 64.0)) for name in ('fine', 'coarse'))
    for result, place in ((fine, 60), (coarse, 31)):
        result.heat[place - 1 : place + 2, place - 1 : place + 2] = 1
        result.sigmas.append(erf_size(result.heat)[0])
    left, top, right, bottom = window_of([fine, coarse])
    assert left == top < 30 - 1 and (right, bottom) == (64, 64)
