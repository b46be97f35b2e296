"""The speed of a table's rows: the benchmark is real once, elsewhere it answers with written times."""

import importlib
import json
import re
from dataclasses import asdict
from functools import partial

import pytest

from mmscale.analysis.benchmark import BenchmarkError
from mmscale.analysis.benchmark_worker import MODES as BENCHMARK_MODES
from mmscale.analysis.statistics import spread
from mmscale.reproduce import cli, complexity, speed
from mmscale.reproduce.markdown import to_markdown as report_markdown
from mmscale.reproduce.results import gather
from mmscale.reproduce.spec import MODES, SpecError, Speed, find
from mmscale.reproduce.spec_reader import SpecReader
from mmscale.reproduce.speed import measure
from mmscale.reproduce.speed_table import to_json, to_markdown

CONFIG = """
_base_ = 'mmscale::fine/fcos_r18_fpn-fine_2e_bccd.py'
weights = dict(_delete_=True, type='Pretrained', checkpoint='no/such/weights.pth')
model = dict(backbone=dict(base_channels=8, init_cfg=weights),
             neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
             bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1))
"""
TABLES = """
title: A paper
reference: Somebody
tables:
  table1:
    title: A table
    source: Table 1
    recipe: {paper: theirs, ours: ours}
    base: base.py
    baseline: r2
    task: detection
    metrics: {AP: coco/AP}
    flops: macs
    input_size: [64, 96]
    speed: {column: FPS, paper: an abacus}
    rows:
      - {name: quoted, label: Quoted, quoted: true, paper: {FPS: 80}}
      - {name: r1.5, label: Finer, set: {model.neck.fine.ratio: 1}, paper: {FPS: 50, AP: 30}}
      - name: r2
        label: Plain
        count_set: {model.bbox_head.num_classes: 91}
        paper: {FPS: 40}
      - {name: other, label: Other, paper: {FPS: 60}, paper_baseline: {FPS: 30}, note: on another abacus}
      - {name: silent, label: Silent}
      - {name: later, label: Later, waits_for: another day}
"""
# Seconds of each run: in every pair 'r1.5' takes 1.25 times what 'r2' takes, but for one of 8.
SECONDS = {
    'r2': [0.1, 0.2, 0.1, 0.1, 0.1, 0.1],
    'r1.5': [0.125, 0.25, 0.125, 0.125, 0.125, 0.8],
    'other': [0.2, 0.4, 0.2, 0.2, 0.2, 0.2],
    'silent': [0.1] * 6,
}


@pytest.fixture
def write(tmp_path):
    def write(text):
        folder = tmp_path / 'demo'
        folder.mkdir(exist_ok=True)
        (folder / 'base.py').write_text(CONFIG)
        file = folder / 'tables.yml'
        file.write_text(text)
        return SpecReader(file).paper().tables['table1']  # load_paper reads a file once

    return write


@pytest.fixture
def asked(monkeypatch):
    """What the benchmark was asked for, one dict per call."""
    calls = []

    def benchmark(configs, input_size, *, mode, device='cpu', rounds=1, progress=None, **options):
        names = [config.filename.removesuffix('.py') for config in configs]
        calls.append(dict(names=names, configs=configs, input_size=input_size, mode=mode, **options))
        progress('building')
        settings = dict(
            {'amp': False, **options}, mode=mode, device=device, rounds=rounds, input_size=input_size, compile=False
        )
        environment = dict(device_name='Abacus', device=device, threads=1, versions={'torch': '2'})
        return dict(settings=settings, environment=environment, ratios=[], results=[answer(name) for name in names])

    monkeypatch.setattr(importlib.import_module('mmscale.analysis.benchmark'), 'benchmark', benchmark)
    return calls


def answer(name):
    times = SECONDS[name]
    seconds = dict(asdict(spread(times)), samples=times, compared=times)
    return dict(
        name=name,
        config=f'{name}.py',
        params=10**6,
        latency=seconds,
        cpu_time=dict(seconds, compared=[3 * time if name == 'other' else time for time in times]),
        throughput=1 / spread(times).median,
        memory=dict(tensors=5_000_000, resident=None),
    )


def line_of(text, label):
    (line,) = (line for line in text.splitlines() if line.startswith(f'| {label} '))
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_a_table_says_which_column_is_measured(write):
    assert write(TABLES).speed == Speed('FPS', 'an abacus', 'tensor')
    assert write(TABLES.replace('an abacus}', 'an abacus, mode: predict}')).speed.mode == 'predict'
    assert (*MODES, 'train') == BENCHMARK_MODES  # frames per second are of inference
    shown = cli.describe(write(TABLES))
    assert "FPS: the paper's on an abacus; `speed demo/table1` measures them here." in shown
    assert line_of(shown, 'Finer')[:4] == ['Finer', 'r1.5', '30.0', '50.0']


@pytest.mark.parametrize(
    'before, after, sentence',
    [
        ('paper: an abacus', 'papr: x', "'speed': there is no key 'papr', did you mean 'paper'?"),
        (', paper: an abacus', '', "'speed': the key 'paper' is missing"),
        ('column: FPS', 'column:', "'speed': 'column' should be a text, but is None"),
        ('column: FPS', 'column: AP', "'speed': 'column' is 'AP', which is the name of another column"),
        ('column: FPS', 'column: params', "'speed': 'column' is 'params', which is the name of another column"),
        ('an abacus}', 'an abacus, mode: all}', "'mode' should be one of tensor, predict, backbone-neck, but is 'all'"),
        (
            'an abacus}',
            'an abacus}\n    unmeasured: {FPS: x}',
            "'column' is 'FPS', which is the name of another column",
        ),
        ('    flops: macs\n    input_size: [64, 96]\n', '', "'speed' needs 'input_size' beside it"),
        ('    speed: {column: FPS, paper: an abacus}\n', '', "'paper' has no column 'FPS'"),
    ],
)
def test_a_mistake_in_the_table_is_one_sentence(write, before, after, sentence):
    assert before in TABLES
    with pytest.raises(SpecError, match=re.escape(sentence)):
        write(TABLES.replace(before, after, 1))


def test_rows_stand_beside_the_papers(write, asked):
    speeds = measure(write(TABLES))
    (call,) = asked
    assert call['names'] == ['r2', 'r1.5', 'other', 'silent'], 'the baseline is measured first'
    assert call['input_size'] == (64, 96) and call['mode'] == 'tensor'
    plain, finer = call['configs'][:2]
    assert plain.model.bbox_head.num_classes == 3, 'what is set for the count alone is not what runs'
    assert 'ratio' not in plain.model.neck.fine and finer.model.neck.fine.ratio == 1
    by_name = {timing.row.name: timing for timing in speeds.timings}
    assert list(by_name) == ['quoted', 'r1.5', 'r2', 'other', 'silent'], "the table's order, with what it quotes"
    ratio = by_name['r1.5'].ratio  # of six pairs, the interval runs from the least to the largest
    assert (ratio.median, ratio.low, ratio.high, ratio.confidence) == pytest.approx((1.25, 1.25, 8, 1 - 2 / 64))
    assert by_name['r1.5'].paper_ratio == pytest.approx(40 / 50)
    assert by_name['other'].paper_ratio == pytest.approx(30 / 60), 'the paper compares it with another figure'
    assert by_name['quoted'].paper_ratio == pytest.approx(40 / 80) and by_name['quoted'].result is None
    assert by_name['r2'].ratio is None and by_name['r2'].paper_ratio is None
    text = to_markdown(speeds)
    assert re.search(r'\| row +\| +FPS \| paper\'s FPS \| +ms \| time to baseline \| 96\.9 % interval \|', text)
    assert line_of(text, 'Finer') == [
        'Finer',
        '8.00',
        '50.0',
        '125.0',
        '1.250',
        '1.250 to 8.000',
        '1.250',
        '0.800',
        '5.0',
    ]
    assert line_of(text, 'Other')[4:8] == ['2.000', '2.000 to 2.000', '6.000', '0.500']
    assert line_of(text, 'Plain') == ['Plain', '10.0', '40.0', '100.0', '', '', '', '', '5.0']
    assert line_of(text, 'Quoted') == ['Quoted', '', '80.0', '', '', '', '', '0.500', '']
    assert line_of(text, 'Silent')[2] == '' and 'Later' not in text, 'there is nothing to say of it'
    assert "The paper's FPS are of an abacus. Frames per second of two machines are not comparable" in text
    assert 'over that of Plain, median of paired runs' in text
    assert '- Quoted: quoted by the paper, no code here\n- Other: on another abacus' in text
    stated = json.loads(json.dumps(to_json(speeds)))
    assert stated['speed']['paper'] == 'an abacus' and len(stated['benchmark']['results']) == 4
    row = stated['rows'][1]
    assert (row['fps'], row['paper_fps'], row['time_ratio']['median']) == (8, 50, 1.25)
    assert {result['config'] for result in stated['benchmark']['results']} == {'base.py'}


def test_chosen_rows_bring_their_baseline(write, asked):
    speeds = measure(write(TABLES), ['other'], shape=[32], mode='predict', repeats=6)
    assert asked[0]['names'] == ['r2', 'other'] and asked[0]['input_size'] == [32] and asked[0]['repeats'] == 6
    text = to_markdown(speeds)
    assert [timing.row.name for timing in speeds.timings] == ['r2', 'other']
    assert 'Mode predict: all the way to boxes. What an NMS gets from random weights is chance' in text


def test_a_table_without_the_key_has_no_papers_column(write, asked):
    text = re.sub(r'    speed: .*\n', '', re.sub(r'FPS: \d+(, )?', '', TABLES)).replace('    baseline: r2\n', '')
    speeds = measure(write(text), device='cuda', rounds=2)
    assert speeds.timings[0].row.name == 'r1.5' and speeds.timings[0].against is None
    assert {timing.against for timing in speeds.timings[1:]} == {'r1.5'}, 'the first row serves for all'
    text = to_markdown(speeds)
    assert "paper's" not in text and 'CPU time' not in text, "on a GPU it is the host's share"
    assert line_of(text, 'Plain')[3:5] == ['0.800', '0.125 to 0.800']
    assert 'over that of Finer, median of paired rounds' in text


def test_every_row_against_its_own_baseline(write, asked):
    speeds = measure(write(TABLES.replace('label: Silent', 'label: Silent, baseline: r2').replace(
        '    baseline: r2\n', '').replace('label: Other', 'label: Other, baseline: r1.5')))  # fmt: skip
    assert asked[0]['names'] == ['r1.5', 'r2', 'other', 'silent']
    text = to_markdown(speeds)
    assert line_of(text, 'Silent')[1] == 'Plain' and line_of(text, 'Other')[1] == 'Finer'
    assert line_of(text, 'Other')[5] == '1.600' and "over its baseline's, median of" in text


def test_one_run_has_no_interval(write, asked, monkeypatch):
    monkeypatch.setitem(SECONDS, 'r2', [0.1])
    monkeypatch.setitem(SECONDS, 'silent', [0.3])
    text = to_markdown(measure(write(TABLES), ['silent'], repeats=1))
    assert line_of(text, 'Silent')[4:6] == ['3.000', 'none']


def test_what_is_not_comparable_is_refused(write, asked):
    table = write(TABLES)
    for names, sentence in (
        (['r2'], "speed compares two rows or more, but only 'r2' of demo/table1 is to be measured"),
        (['othr'], "table 'demo/table1' has no row 'othr', did you mean 'other'?"),
        (['quoted'], "row 'quoted' of demo/table1 is only quoted by the paper"),
        (['later'], "row 'later' of demo/table1 cannot run yet: it waits for another day"),
    ):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            measure(table, names)
    for text, sentence in (
        (re.sub(r'      - {name: (r1.5|other|silent), .*\n', '', TABLES), "only 'r2' of demo/table1 can run"),
        (re.sub(r'    (flops|input_size|speed): .*\n', '', re.sub(r'FPS: \d+(, )?', '', TABLES)),
         "demo/table1 states no 'input_size', so height and width are needed: --shape 640 640"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(sentence)):
            measure(write(text))
    assert not asked


def test_the_column_is_no_figure_of_cost_or_of_a_report(write):
    table = write(TABLES)
    costs = [complexity.Cost(row, dict(params=1.0, flops=2.0) if row.runnable else {}) for row in table.rows]
    assert 'FPS' not in complexity.to_markdown(table, costs)
    assert complexity.to_json(table, costs)['rows'][1]['paper'] == {}
    results = gather(table, 'exp', [])
    assert [column.name for column in results.columns] == ['AP'] and 'FPS' not in report_markdown(results)


@pytest.fixture
def command(write, tmp_path, monkeypatch):
    """``reproduce.py speed demo/table1`` with more words: a function that returns the exit code."""
    write(TABLES)
    monkeypatch.setattr(speed, 'find', partial(find, root=tmp_path))

    def command(*words, target='demo/table1'):
        try:
            cli.main(['speed', target, *words])
        except SystemExit as stop:
            return stop.code or 0
        return 0

    return command


def test_the_command_leaves_files(command, asked, tmp_path, capsys):
    out, file = tmp_path / 'out' / 'speed.md', tmp_path / 'speed.json'
    assert command('--rows', 'silent', '--repeats', '6', '--amp', '--out', str(out), '--json', str(file)) == 0
    assert asked[0]['amp'] is True and asked[0]['repeats'] == 6 and asked[0]['warmup'] == 2
    printed = capsys.readouterr().out
    assert printed.strip() in out.read_text()
    assert (
        f'`python tools/reproduce.py speed demo/table1 --rows silent --repeats 6 --out {out} --amp`' in out.read_text()
    )
    assert json.loads(file.read_text())['rows'][1]['name'] == 'silent'


def test_the_commands_mistakes_are_one_line(command, asked, capsys):
    for words, sentence in (
        (['--device', 'gpu'], 'error: --device gpu should be cpu, cuda or cuda:N\n'),
        (['--device', 'cuda:99'], 'error: --device cuda:99 is not there: PyTorch can use '),
        (['--threads', '0'], 'error: --threads 0 should be 1 or more\n'),
        (['--rows', 'plain'], "error: table 'demo/table1' has no row 'plain'"),
    ):
        assert command(*words) == 2
        told = capsys.readouterr().err
        assert told.startswith(sentence) and told.count('\n') == 1
    assert not asked


def test_one_table_at_a_time(command, monkeypatch, capsys):
    monkeypatch.setattr(speed, 'find', find)
    assert command(target='fine/table1') == 2
    sentence = "speed measures one table at a time, and 'fine/table1' is fine/table1-classic, fine/table1-realtime"
    assert capsys.readouterr().err == f'error: {sentence}\n'


@pytest.mark.parametrize(
    'error, code, told',
    [
        (BenchmarkError("'r2' died", 'Traceback\n'), 1, "Traceback\nerror: 'r2' died\n"),
        (KeyboardInterrupt(), 130, 'error: interrupted\n'),
    ],
)
def test_a_row_that_fails_ends_the_command(command, monkeypatch, capsys, error, code, told, tmp_path):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(importlib.import_module('mmscale.analysis.benchmark'), 'benchmark', fail)
    assert command('--out', str(tmp_path / 'x.md')) == code
    assert capsys.readouterr().err.endswith(told) and not (tmp_path / 'x.md').exists()


def test_two_rows_are_really_measured(command, tmp_path, capsys):
    """Their pretrained weights do not exist, and are not asked for."""
    words = ['--rows', 'r1.5', '--repeats', '2', '--warmup', '0', '--threads', '1', '--batch-size', '2']
    assert command(*words, '--json', str(tmp_path / 'speed.json')) == 0
    cells = line_of(capsys.readouterr().out, 'Finer')
    found = json.loads((tmp_path / 'speed.json').read_text())
    plain, finer = found['benchmark']['results']
    assert (plain['name'], finer['name']) == ('r2', 'r1.5')
    assert plain['network_input'][0] == 2 and plain['network_input'][-2:] == finer['network_input'][-2:] == [64, 96]
    assert plain['params'] == finer['params'] > 100_000, 'r changes the work alone'
    assert finer['memory']['tensors'] > finer['memory']['weights'] > 4 * 100_000
    row = found['rows'][0]
    assert row['name'] == 'r1.5' and row['fps'] == 2 / finer['latency']['median'] > 0
    assert row['time_ratio']['low'] <= row['time_ratio']['median'] <= row['time_ratio']['high']
    assert cells[2] == '50.0' and cells[-1] == f'{finer["memory"]["tensors"] / 1e6:.1f}'
