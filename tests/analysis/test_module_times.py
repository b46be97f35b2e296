"""Times by module: everything that runs is there, nested parts are told apart, and no hook stays behind."""

import importlib.util
import json
import time

import pytest
import torch
from torch import nn

from mmscale.analysis import module_times
from mmscale.analysis.module_times import measure_module_times, module_times_table
from mmscale.paths import config_root

SMALL = config_root() / 'rtdetr' / 'rtdetr_r18_12e_bccd.py'


class Sleeper(nn.Module):
    def __init__(self, seconds, child=None):
        super().__init__()
        self.seconds, self.child = seconds, child

    def forward(self, x):
        time.sleep(self.seconds)
        return x if self.child is None else self.child(x)


def test_a_module_includes_its_children_and_a_class_counts_nested_ones_once():
    model = nn.Sequential(Sleeper(0.02, Sleeper(0.03)), Sleeper(0.01))
    x = torch.zeros(1)
    total, modules, classes, calls = module_times._timed(model, lambda: model(x), x)
    assert modules['0.child'] >= 0.03 and modules['0'] >= 0.05 and 0.01 <= modules['1'] < modules['0.child']
    assert classes['Sleeper'] == pytest.approx(modules['0'] + modules['1'])
    assert calls == {'Sleeper': 2} and total >= classes['Sleeper']
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_no_hook_is_left_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2))
    x = torch.zeros(1, 3)
    with pytest.raises(RuntimeError):
        module_times._timed(model, lambda: model(x), x)
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks


def test_a_detector_in_the_form_that_is_asked_for():
    threads = torch.get_num_threads()
    options = dict(shape=(96, 128), repeats=1, warmup=0, threads=1)
    folded = measure_module_times(SMALL, **options)
    trained = measure_module_times(SMALL, reparam=False, **options)
    assert torch.get_num_threads() == threads
    assert folded.network_input == [1, 3, 96, 128]
    assert 'RepVGGBlock' in trained.classes and 'RepVGGBlock' not in folded.classes
    assert list(folded.modules)[0].startswith('backbone')
    assert folded.macs['backbone'] > folded.macs['backbone.layer4'] > 0
    assert sum(folded.modules[name] for name in ('backbone', 'neck', 'decoder')) <= folded.total
    table = module_times_table(folded, depth=1, least=0.0)
    rows = [line.split('|')[1].strip() for line in table.splitlines() if line.startswith('|')]
    assert 'backbone' in rows and 'backbone.layer4' not in rows and 'HybridEncoder' in rows


def test_command(repo, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('module_times_tool', repo / 'tools/analysis/module_times.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    options = ['--shape', '64', '64', '--repeats', '1', '--warmup', '0', '--json', str(tmp_path / 'times.json')]
    tool.main([str(SMALL), *options])
    assert 'ms a forward, median of 1' in capsys.readouterr().out
    assert json.loads((tmp_path / 'times.json').read_text())['repeats'] == 1
    with pytest.raises(ValueError, match='repeats=0 and threads=None should be 1 or more'):
        measure_module_times(SMALL, repeats=0)
