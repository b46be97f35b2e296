"""Without an optional package, rows that need it wait for it, and the others are done."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import mmscale
from mmscale import registry
from mmscale.reproduce.complexity import count, to_json, to_markdown
from mmscale.reproduce.config import count_config, row_config
from mmscale.reproduce.optional import describe_waiting, mark_waiting, read_config
from mmscale.reproduce.spec import Row, find

REASON = 'MMYOLO, which is optional and not installed (pip install mmyolo==0.6.0)'
YOLOS = ['yolov8-s', 'yolov8-s_fine', 'yolov10-s', 'yolov10-s_fine', 'yolov12-s', 'yolov12-s_fine']
OTHERS = ['rt-detr_r18', 'rt-detr_r18_fine', 'rt-detr_r50', 'rt-detr_r50_fine']
COMMANDS = (
    'check fine/table1-realtime',
    'check hmpe/table1-nwpu',
    'check fine/yolov8-bccd',
    'complexity fine/table1-realtime',
    'complexity fine/table1-realtime --rows rt-detr_r18_fine',
    'complexity fine/table1-realtime --rows yolov8-s',
    'complexity fine/yolov8-bccd',
    'train fine/table1-realtime --dataset bccd --dry-run',
    'train fine/table1-realtime --rows yolov8-s --dry-run',
    'speed fine/table8',
)
# Nothing is counted: what is to be counted is a matter of this file, how is one of test_complexity.py.
PROGRAM = f"""
import contextlib, importlib.machinery, io, json, sys

class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition('.')[0] == 'mmyolo' else super().find_spec(name, path, target)

sys.meta_path = [Hidden if f is importlib.machinery.PathFinder else f for f in sys.meta_path]

from mmscale.reproduce import cli, complexity
counted = dict(params=10**6, macs=10**9, unknown={{}})
complexity._count_all = lambda networks, *_: dict.fromkeys(networks, counted)
told = {{}}
for words in {COMMANDS}:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(words.split())
        except SystemExit as end:
            code = end.code or 0
    told[words] = code, out.getvalue(), err.getvalue()
print(json.dumps([told, 'mmyolo' in sys.modules]))
"""


@pytest.fixture(scope='module')
def told(tmp_path_factory):
    """Of every command its exit code and what it printed, in a process that finds no MMYOLO."""
    package = Path(mmscale.__file__).parents[1]
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get('PYTHONPATH')])])
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', PROGRAM],
        env={**os.environ, 'PYTHONPATH': path, 'CUDA_VISIBLE_DEVICES': '-1'},
        cwd=tmp_path_factory.mktemp('without'),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert 'None.registry' not in done.stdout + done.stderr, "mmengine's warning"
    told, imported = json.loads(done.stdout.splitlines()[-1])
    assert not imported
    return told


def test_check_skips_them_and_does_the_rest(told):
    code, out, err = told['check fine/table1-realtime']
    assert (code, err) == (0, '')
    assert out == (
        f'skipped: fine/table1-realtime: {", ".join(YOLOS)} wait for {REASON}\n'
        '4 rows in 1 tables: every override fits its config.\n'
    )
    code, out, _ = told['check hmpe/table1-nwpu']
    assert code == 0 and f'skipped: hmpe/table1-nwpu: yolov5, yolov6, yolov7, yolov8 wait for {REASON}\n' in out
    rows = find('hmpe/table1-nwpu')[0].select()
    assert f'\n{len(rows) - 4} rows in 1 tables: ' in out, 'rows whose config names MMYOLO and no override does'


def test_complexity_counts_the_rest(told):
    code, out, _ = told['complexity fine/table1-realtime']
    assert code == 0 and f'\n- waits for {REASON}: YOLOv8-S, PAN; ' in out
    lines = [line for line in out.splitlines() if line.startswith('| ')][1:]
    assert ['1.000' in line for line in lines] == [True] * 4 + [False] * 6
    assert 'operations of convolution alone' not in out, 'of a row that was not counted'


def test_complexity_of_some_rows(told):
    code, out, _ = told['complexity fine/table1-realtime --rows rt-detr_r18_fine']
    labels = [line.split('|')[1].strip() for line in out.splitlines() if line.startswith('| ')][1:]
    assert code == 0 and labels == ['RT-DETR R18, H-Enc', 'RT-DETR R18, H-Enc + FINE'] and 'waits' not in out


def test_train_does_the_rest(told):
    code, out, _ = told['train fine/table1-realtime --dataset bccd --dry-run']
    skipped, *runs = out.splitlines()
    assert code == 0 and skipped == f'skipped: fine/table1-realtime: {", ".join(YOLOS)} wait for {REASON}'
    assert [run.split()[1] for run in runs] == OTHERS


@pytest.mark.parametrize('words', ['complexity fine/table1-realtime --rows yolov8-s',
                                   'train fine/table1-realtime --rows yolov8-s --dry-run'])  # fmt: skip
def test_a_row_that_was_asked_for_is_a_mistake(told, words):
    code, out, err = told[words]
    sentence = f"error: row 'yolov8-s' of fine/table1-realtime cannot run yet: it waits for {REASON}\n"
    assert (code, out, err) == (2, '', sentence)


@pytest.mark.parametrize('words', ['check fine/yolov8-bccd', 'complexity fine/yolov8-bccd', 'speed fine/table8'])
def test_so_is_a_table_of_which_nothing_is_left(told, words):
    code, out, err = told[words]
    assert (code, out) == (2, '') and err.startswith('error: fine/') and err.endswith(f'wait for {REASON}\n')


def test_speed_measures_the_rest(monkeypatch):
    from mmscale.reproduce import speed

    benchmark = importlib.import_module('mmscale.analysis.benchmark')

    def run(networks, size, **options):
        raise benchmark.BenchmarkError(' '.join(Path(network.filename).stem for network in networks), '')

    monkeypatch.setattr(registry, 'HAS_MMYOLO', False)
    monkeypatch.setattr(benchmark, 'benchmark', run)
    with pytest.raises(benchmark.BenchmarkError) as end:
        speed.measure(find('fine/table1-realtime')[0])
    assert sorted(str(end.value).split()) == sorted(OTHERS)


# What needs MMYOLO ----------------------------------------------------------------------------------------------------

SMALL = """
_base_ = 'mmscale::fine/fcos_r18_fpn-fine_2e_bccd.py'
model = dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
             bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1))
"""
NEEDS = dict(
    part="model = dict(bbox_head=dict(loss_bbox=dict(type='mmyolo.IoULoss')))",
    ours="model = dict(neck=dict(_delete_=True, type='mmscale.FINEYOLOv8PAFPN'))",
    bare="model = dict(neck=dict(_delete_=True, type='CSFPAFPN'))",
    scope="default_scope = 'mmyolo'",
    hook="custom_hooks = [dict(type='EMAHook', ema_type='mmyolo.ExpMomentumEMA')]",
    base="_base_ = 'mmyolo::yolov8/nothing.py'",
)


@pytest.mark.parametrize('need', NEEDS)
def test_what_needs_it(need, tmp_path, monkeypatch):
    (tmp_path / 'config.py').write_text(NEEDS[need] if need == 'base' else SMALL + NEEDS[need])
    if need == 'base':
        monkeypatch.setattr('mmengine.config.config.is_installed', lambda package: package != 'mmyolo')
    monkeypatch.setattr(registry, 'HAS_MMYOLO', False)
    rows = (Row('a', 'A', str(tmp_path / 'config.py')),)
    table = replace(find('fine/table4')[0], rows=rows)
    marked = mark_waiting(table)
    assert [row.waits_for for row in marked.rows] == [REASON] and not marked.select()
    assert describe_waiting(marked) == [f'fine/table4: a waits for {REASON}']
    for build in (row_config, count_config):
        with pytest.raises(ValueError, match="row 'a' of fine/table4 cannot run: it waits for MMYOLO"):
            build(table, rows[0])


def test_what_an_override_brings(tmp_path, monkeypatch):
    (tmp_path / 'config.py').write_text(SMALL)
    plain = Row('plain', 'Plain', str(tmp_path / 'config.py'))
    loss = replace(plain, name='loss', label='Loss', set={'model.bbox_head.loss_bbox.type': 'mmyolo.IoULoss'})
    table = replace(find('fine/table4')[0], rows=(plain, loss))
    monkeypatch.setattr(registry, 'HAS_MMYOLO', False)
    assert [row.waits_for for row in mark_waiting(table).rows] == [None, REASON]
    plain, loss = count([table], jobs=1, progress=False)[table.name]
    assert plain.ours and not plain.error and not loss.ours and not loss.error
    assert f'- waits for {REASON}: Loss' in to_markdown(table, [plain, loss])
    assert to_json(table, [plain, loss])['rows'][1]['waits_for'] == REASON


def test_with_everything_nothing_waits():
    pytest.importorskip('mmyolo')
    pytest.importorskip('mmseg')
    table = find('fine/table1-realtime')[0]
    assert mark_waiting(table) == table


def test_rows_of_mmsegmentation_wait_as_well(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *rest: None if name == 'mmseg' else find_spec(name, *rest)
    )
    monkeypatch.setattr('mmengine.config.config.is_installed', lambda package: package != 'mmsegmentation')
    read_config.cache_clear()
    marked = mark_waiting(find('fine/table7-semantic')[0])
    (reason,) = {row.waits_for for row in marked.rows}
    assert reason.startswith('MMSegmentation, which is optional and not installed (pip install mmsegmentation==1.2.2 ')
