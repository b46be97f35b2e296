"""Whole models: by hand, against mmengine's counter, and against the figures that papers print."""
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from torch import nn

from mmscale.analysis import complexity, complexity_table
from mmscale.analysis.complexity_command import main
from mmscale.analysis.model import build_model, load_config, random_batch


class TwoLevels(nn.Module):
    """Two maps, the upper one enlarged and added to the lower."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.out = nn.Conv2d(8, 8, 1, bias=False)
        self.out.weight.requires_grad = False

    def forward(self, x):
        return self.out(self.low(x) + nn.functional.interpolate(self.high(x), scale_factor=2))


def test_two_levels_by_hand():
    model = TwoLevels().train()
    result = complexity(model, (8, 12))
    assert result.params == 2 * (8 * 27 + 8) + 64
    assert result.trainable_params == result.params - 64
    low, high, out, enlarged = 96 * 8 * 27, 24 * 8 * 27, 96 * 64, 96 * 8
    assert result.macs == low + high + out + enlarged
    assert result.flops == 2 * result.macs
    assert result.by_kind == {'convolution': dict(calls=3, macs=low + high + out),
                              'interpolation': dict(calls=1, macs=enlarged)}
    assert result.by_module == dict(low=low, high=high, out=out)
    assert model.training and model.low.training  # as it was


def test_a_parameter_that_two_modules_share_counts_once():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert complexity(nn.Sequential(first, second), inputs=[torch.zeros(1, 4)]).params == 16 + 4 + 4


def test_a_view_of_a_parameter_may_be_the_input_of_a_layer():
    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries, self.layer = nn.Parameter(torch.zeros(3, 4)), nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.queries.view(3, 4)) + x

    model = Queries()
    result = complexity(model, inputs=[torch.zeros(1, 4)])
    assert result.macs == 3 * 16
    assert result.trainable_params == result.params == 12 + 16 + 4
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_detector_equals_mmengine(one_stage):
    result = complexity(one_stage, (64, 96))
    model = build_model(load_config(one_stage))
    inputs, samples = random_batch(model, (64, 96))
    model.forward_all, model.forward = model.forward, lambda x: model.forward_all(x, samples, mode='tensor')
    reference = get_model_complexity_info(model, inputs=(inputs,), show_table=False, show_arch=False)
    assert result.macs == reference['flops']
    assert result.params == reference['params']
    assert result.unknown == {}
    assert sum(result.by_module.values()) == result.macs
    assert result.proposals is None


def test_two_stage_lists_what_it_cannot_see(two_stage):
    result = complexity(two_stage, 64)
    assert result.proposals == 20
    assert result.unknown['NMSop'] == 1
    assert result.unknown['RoIAlignFunction'] >= 1
    # box head: 16 channels x 7 x 7, two layers of 32, 4 classes and 12 deltas
    assert result.by_kind['matrix product']['macs'] == 20 * (784 * 32 + 32 * 32 + 32 * (4 + 12))


def test_input_is_padded_as_the_model_says(one_stage):
    result = complexity(one_stage, (50, 70))
    assert (result.input_size, result.padded_size) == ((50, 70), (64, 96))
    assert result.macs == complexity(one_stage, (64, 96)).macs


def test_seed_and_global_generator(one_stage):
    state = torch.get_rng_state()
    first = build_model(load_config(one_stage), seed=3).backbone.conv1.weight
    assert torch.equal(first, build_model(load_config(one_stage), seed=3).backbone.conv1.weight)
    assert not torch.equal(first, build_model(load_config(one_stage), seed=4).backbone.conv1.weight)
    assert torch.equal(state, torch.get_rng_state())


def test_overrides_table_and_json(one_stage):
    results = [complexity(one_stage, 64),
               complexity(one_stage, 64, cfg_options={'model.bbox_head.stacked_convs': 2})]
    assert results[1].params - results[0].params == 2 * (16 * 16 * 9 + 16)
    table = complexity_table(results)
    assert 'one_stage' in table and '+0.005' in table
    assert json.loads(json.dumps(results[0].to_dict()))['flops'] == 2 * results[0].macs


# the plain baselines whose published figures fix the conventions
SSD300_VOC = ('mmdet::ssd/ssd300_coco.py', 300, {'model.bbox_head.num_classes': 20}, 26.285, 31.374)
FASTER_RCNN = ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 800, {}, 41.75, 134.6)
PANOPTIC_FPN = ('mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', 640, {}, 46.03, 156.69)


@pytest.mark.parametrize(('config', 'size', 'options', 'params', 'macs'), [SSD300_VOC, FASTER_RCNN, PANOPTIC_FPN],
                         ids=['ssd300', 'faster_rcnn', 'panoptic_fpn'])
def test_published_baselines(config, size, options, params, macs):
    result = complexity(config, size, cfg_options=options)
    assert result.params / 1e6 == pytest.approx(params, rel=2e-4)
    assert result.macs / 1e9 == pytest.approx(macs, rel=2e-4)


@pytest.mark.parametrize('size', [0, (8, 0), (8, 8, 8), (8.0, 8), ()])
def test_bad_size(size):
    with pytest.raises(ValueError, match='input_size must be height and width'):
        complexity(TwoLevels(), size)


def test_bad_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="config 'nowhere.py' does not exist"):
        complexity('nowhere.py')
    with pytest.raises(ValueError, match="has no 'model'"):
        complexity(Config(dict(data=1)))
    with pytest.raises(ValueError, match='cfg_options'):
        complexity(TwoLevels(), cfg_options={'a': 1})


def test_command_line(one_stage, tmp_path, capsys):
    main([str(one_stage), '--shape', '64', '--json', str(tmp_path / 'report.json')])
    assert '| one_stage |' in capsys.readouterr().out
    assert json.loads((tmp_path / 'report.json').read_text())[0]['input_size'] == [64, 64]


@pytest.mark.parametrize('name', ['benchmark', 'complexity', 'dataset_report', 'erf', 'error_analysis', 'feature_maps',
                                  'noise_robustness'])
def test_tools_work_from_a_checkout(name, repo, monkeypatch):
    """Without an installation and PYTHONPATH: they put the checkout's own package first."""
    monkeypatch.setattr(sys, 'path', [path for path in sys.path if Path(path or '.').resolve() != repo / 'projects'])
    tool = runpy.run_path(str(repo / 'tools' / 'analysis' / f'{name}.py'))
    assert sys.path[0] == str(repo / 'projects') and callable(tool['main'])


def test_mistakes_on_the_command_line(capsys):
    with pytest.raises(SystemExit) as caught:
        main(['nowhere.py'])
    assert caught.value.code == 2 and capsys.readouterr().err.startswith("error: config 'nowhere.py' does not exist")
