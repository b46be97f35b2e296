"""What ``--cfg-options`` takes and refuses, and arguments in a config that do not fit their class."""
import argparse
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT
from mmengine.registry import Registry
from torch import nn

from mmscale.analysis.model import build_model
from mmscale.engine import cli
from mmscale.engine.train import build_parser, main, prepare

PARTS = Registry('part', scope='mmscale', locations=[])


def parsed(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=cli.Options)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('value', [
    "{'type': 'Pretrained', 'checkpoint': 'x.pth', 'prefix': 'backbone.'}", "{'type':'A'}", '"{a: 1}"', '{}', ' {a:1}',
    "[{'type':'A'}]", "[1,{'type':'A'}]", "dict(type='A')", "dict(type='A', b=1)", "[dict(type='A')]",
])  # fmt: skip
def test_a_dict_is_told_to_be_none(value, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(f'model.backbone.init_cfg={value}')
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert 'a dict belongs into a config file, or each of its fields is set by itself: KEY.FIELD=VALUE' in line


@pytest.mark.parametrize('word, value', [
    ('a=1', 1), ('a=[1,2]', [1, 2]), ('a=b,c', ['b', 'c']), ('a=(1,2)', (1, 2)), ('a=epoch_{}.pth', 'epoch_{}.pth'),
    ('a=x=y', 'x=y'), ('a=', ''), ('a=dictionary', 'dictionary'), ('a=None', None),
])  # fmt: skip
def test_other_values_stay(word, value):
    assert parsed(word) == {'a': value}


def test_weights_of_csf_nets_shallow_backbone_as_its_page_says(repo, tmp_path):
    """The options stand in docs/csf_net.md; the weights are those of a YOLOv8-n's backbone."""
    pytest.importorskip('mmyolo', reason='CSF-Net stands on mmyolo, which is optional')
    text = (repo / 'docs' / 'csf_net.md').read_text(encoding='utf-8')
    command = next(block for block in re.findall(r'```bash\n(.*?)```', text, re.S) if 'init_cfg' in block)
    words = command.replace('\\\n', ' ').split('tools/train.py ')[1].split()
    assert words[0] == 'configs/csf_net/csf-net_n_80e_micro-uav.py' and words[-4] == '--cfg-options'
    yolo = build_model(Config.fromfile(repo / 'configs' / 'yolo' / 'yolov8_n_8xb16-500e_coco.py'), seed=3)
    torch.save(dict(state_dict=yolo.state_dict()), tmp_path / 'yolov8n.pth')
    options = [word.replace('yolov8n.pth', str(tmp_path / 'yolov8n.pth')) for word in words[-4:]]
    cfg = prepare(build_parser().parse_args([str(repo / words[0]), *options]))
    model = ROOT.build(cfg.model)
    model.init_weights()
    expected, found = yolo.backbone.state_dict(), model.backbone.shallow.state_dict()
    assert len(expected) > 100 and expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


# Arguments ------------------------------------------------------------------------------------------------------------


@PARTS.register_module()
class Inner(nn.Module):
    def __init__(self, width, depth=1):
        super().__init__()
        if depth == 0:
            helper(width=width)
        if depth < 0:
            self.child = Other(depth=depth)


class Other(nn.Module):
    def __init__(self, height):
        super().__init__()


@PARTS.register_module()
class Forgetful(Inner):
    def __init__(self):
        super().__init__()


@PARTS.register_module()
class Outer(Inner):
    """Hands on what it does not know."""

    def __init__(self, *args, module=None, strange=None, **kwargs):
        if strange:
            super().__init__(width=1, strange=strange)
        super().__init__(*args, **kwargs)
        self.module = PARTS.build(module) if module else None


def helper():
    pass


def told(**part):
    with pytest.raises(TypeError) as caught:
        PARTS.build(dict(type='Outer', **part))
    return cli.is_mistake(caught.value)


def test_arguments_that_do_not_fit():
    assert told(width=1, wdith=2) == "the config gives Outer a 'wdith', which it does not take, did you mean 'width'?"
    assert told(width=1, dpth=2) == "the config gives Outer a 'dpth', which it does not take, did you mean 'depth'?"
    assert told(depth=1) == "the config gives Outer no 'width', which it needs"
    inner = told(width=1, module=dict(type='Inner', width=1, breadth=1))
    assert inner == "the config gives Inner a 'breadth', which it does not take"
    assert told(width=1, module=dict(type='Inner')) == "the config gives Inner no 'width', which it needs"
    nested = told(width=1, num=2, module=dict(type='Inner', width=1, num=3))
    assert nested == "the config gives Outer a 'num', which it does not take; its 'module' has that field"


def test_wrong_calls_of_the_programs_own_are_faults():
    assert told(width=1, depth=0) is None, 'a function'
    assert told(width=1, depth=-1) is None, 'another class'
    assert told(width=1, strange=1) is None, 'an argument of its own, handed on to a base that has it not'
    assert told(width=1, module=dict(type='Forgetful')) is None, 'nothing that a config could give'
    with pytest.raises(TypeError) as caught:
        Inner(breadth=1)
    assert cli.is_mistake(caught.value) is None, 'no registry'
    with pytest.raises(TypeError) as caught:
        PARTS.build(dict(type=lambda: None + 1))
    assert cli.is_mistake(caught.value) is None


def refused(argv, capfd):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv])
    assert stop.value.code == 2
    return capfd.readouterr().err.strip().splitlines()[-1]


def test_a_detectors_arguments_are_told_in_a_line(write_config, tmp_path, capfd):
    run = [write_config(), '--work-dir', tmp_path / 'run', '--cfg-options']
    line = refused([*run, 'model.backbone.dept=34'], capfd)
    assert line == "error: the config gives ResNet a 'dept', which it does not take, did you mean 'depth'?"
    line = refused([*run, 'model.rpn_head.type=RPNHead'], capfd)
    assert line == "error: the config gives FCOS a 'rpn_head', which it does not take"


# Your own data, as docs/data.md says ----------------------------------------------------------------------------------


def own_data(repo, which):
    """A snippet of the page as a config's text, with the paths of its bases from anywhere."""
    section = (repo / 'docs' / 'data.md').read_text(encoding='utf-8').split('## Your own data')[1].split('\n## ')[0]
    snippet = next(block for block in re.findall(r'```python\n(.*?)```', section, re.S) if which in block)
    return snippet.replace("'../", f"'{repo / 'configs'}/")


@pytest.mark.parametrize('which', ['fcos', 'yolov8', 'yolov5'])
def test_configs_of_own_data(repo, tmp_path, which):
    if 'yolo' in which:
        pytest.importorskip('mmyolo', reason='the YOLOs stand on mmyolo, which is optional')
    (tmp_path / 'mine.py').write_text(own_data(repo, which))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.metainfo.classes == ('ship', 'plane') and dataset.data_root == 'data/mine/'
    model = build_model(cfg)
    head = model.bbox_head
    if which == 'fcos':
        assert head.num_classes == 2
        return
    assert head.head_module.num_classes == head.num_classes == 2
    if which == 'yolov8':
        assert head.assigner.num_classes == 2
    else:
        assert head.loss_cls.loss_weight == pytest.approx(0.5 * 2 / 80)


def test_a_yolo_with_another_detectors_number_of_classes(repo, tmp_path, capfd):
    pytest.importorskip('mmyolo', reason='the YOLOs stand on mmyolo, which is optional')
    config = repo / 'configs' / 'yolo' / 'yolov8_n_8e_bccd.py'
    line = refused([config, '--work-dir', tmp_path, '--cfg-options', 'model.bbox_head.num_classes=2'], capfd)
    assert line == ("error: the config gives YOLOv8Head a 'num_classes', which it does not take; its 'head_module' has "
                    'that field')
