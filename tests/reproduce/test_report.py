"""The report over runs that were written by hand: tables, marks, CSV, JSON and pictures."""

import argparse
import csv
import io
import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmscale.reproduce import report
from mmscale.reproduce.markdown import to_markdown
from mmscale.reproduce.plot import bars, curves
from mmscale.reproduce.results import gather
from mmscale.reproduce.spec import Row, Table

# In fractions, as the evaluator has them; differences of 'fine' to 'fpn' in percent: 1.0, 2.0, 3.0.
AP = {'fpn': {0: 0.25, 1: 0.26, 2: 0.24}, 'fine': {0: 0.26, 1: 0.28, 2: 0.27}, 'sni': {0: 0.25}}
SETTINGS = dict(dataset='bccd', epochs=2, from_scratch=True, batch_size=None, amp=False, cfg_options={})
ENVIRONMENT = dict(python='3.11.9', torch='2.13.0', device='cpu', hostname='a')


def make_table(**changes):
    rows = (
        Row('fpn', 'FPN', 'fpn.py', paper={'AP': 37.0, 'FP': 21557.0}),
        Row('fine', 'FPN + FINE', 'fine.py', paper={'AP': 39.1, 'FP': 19417.0}, baseline='fpn'),
        Row('sni', 'SNI', 'sni.py', paper={'AP': 37.7}, baseline='fpn', note='re-implemented by the paper'),
        Row('fapn', 'FaPN', 'fapn.py', paper={'AP': 39.2}, paper_baseline={'AP': 37.9}, baseline='fpn'),
        Row('detr', 'RT-DETR', waits_for='the RT-DETR baseline', paper={'AP': 46.5}),
        Row('old', 'A2-FPN', quoted=True, paper={'AP': 38.3}, baseline='fpn'),
    )
    table = dict(
        paper='fine', key='table2', title='Alignment methods', source='Table 2', recipe_paper='1x, 2 GPUs',
        recipe_ours='1x', task='detection', metrics={'AP': 'coco/AP', 'FP': 'errors/FP'}, scale={'AP': 100.0},
        lower_is_better=('FP',), unmeasured={'FPS': 'depends on the GPU'}, evaluators=(), counting=None, rows=rows,
        file=Path('configs/fine/tables.yml'),
    )  # fmt: skip
    return Table(**{**table, **changes})


def make_run(row, seed, ap, **changes):
    run = dict(
        paper='fine', table='table2', row=row, seed=seed, experiment='bccd-2e-scratch', config_hash=f'{row}-hash',
        settings=SETTINGS, git=dict(revision='abcdef1234567890', dirty=False),
        metrics={'coco/AP': ap, 'errors/FP': 1000.0 * ap}, seconds=100.0 if row == 'fpn' else 110.0, attempts=1,
        history=[dict(epoch=epoch, metrics={'coco/AP': ap * epoch / 2}) for epoch in (1, 2)],
        peak_memory_bytes=5e8 if row == 'fpn' else 6e8, peak_memory_of='resident set', environment=ENVIRONMENT,
        finished=f'2026-01-0{seed + 1}T10:00:00',
    )  # fmt: skip
    return {**run, **changes}


def make_runs():
    return [make_run(row, seed, ap) for row, by_seed in AP.items() for seed, ap in by_seed.items()]


@pytest.fixture
def results():
    return gather(make_table(), 'bccd-2e-scratch', make_runs())


@pytest.fixture
def work_root(tmp_path):
    """The runs as ``train`` leaves them, and one that failed."""
    folder = tmp_path / 'work_dirs' / 'fine' / 'table2' / 'bccd-2e-scratch'
    for run in make_runs():
        place = folder / run['row'] / f'seed{run["seed"]}'
        place.mkdir(parents=True)
        (place / 'run.json').write_text(json.dumps(run))
    (folder / 'fapn' / 'seed0').mkdir(parents=True)
    (folder / 'fapn' / 'seed0' / 'failed.json').write_text(
        json.dumps(dict(row='fapn', seed=0, error='ValueError: no | pipe', log='log.txt'))
    )
    (folder / 'experiment.json').write_text(json.dumps(dict(settings=SETTINGS, rows=list(AP), seeds=[0, 1, 2])))
    return tmp_path / 'work_dirs'


def command(work_root, monkeypatch, *arguments, table=None):
    """Run ``report fine/table2`` on the table of this file."""
    monkeypatch.setattr(report, 'find', lambda target: [table or make_table()])
    parser = argparse.ArgumentParser()
    report.add_parser(parser.add_subparsers())
    args = parser.parse_args(['report', 'fine/table2', '--work-root', str(work_root), *arguments])
    args.run(args)


def line_of(text, label, section):
    """The cells of a row in one section's table."""
    table = text.split(f'\n## {section}')[1]
    line = next(line for line in table.splitlines() if line.startswith(f'| {label} '))
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_values_are_in_the_papers_unit(results):
    cell = results.row('fpn').cells['AP']
    assert cell.values == pytest.approx({0: 25.0, 1: 26.0, 2: 24.0})
    assert (cell.summary.mean, cell.summary.std) == (pytest.approx(25.0), pytest.approx(1.0))
    assert results.row('fpn').cells['FP'].summary.mean == pytest.approx(250.0)  # no scale is given


def test_differences_are_paired(results):
    """1, 2, 3: mean 2, deviation 1, 2 -+ 4.303 / sqrt(3)."""
    cell = results.row('fine').cells['AP']
    assert cell.difference.values == pytest.approx((1.0, 2.0, 3.0))
    assert cell.difference.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-3)
    assert cell.difference.high == pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-3)
    assert cell.paper_difference == 2.1
    assert results.row('sni').cells['AP'].difference.seeds == (0,)
    assert results.row('fpn').cells['AP'].difference is None


def test_the_papers_own_baseline_of_a_row(results):
    assert results.row('fapn').cells['AP'].paper_difference == 1.3  # 39.2 - 37.9, not 39.2 - 37.0
    assert results.row('old').cells['AP'].paper_difference == 1.3  # 38.3 - 37.0
    assert results.row('detr').cells['AP'].paper_difference is None


def test_markdown_holds_the_numbers(results):
    text = to_markdown(results)
    assert line_of(text, 'FPN', 'AP') == ['FPN', '3', '25.0 ± 1.0', '', '', '', '', '37.0', '']
    found = line_of(text, 'FPN + FINE', 'AP')
    assert found == ['FPN + FINE', '3', '27.0 ± 1.0', '+2.00', '-0.48 to +4.48', '0.074', '0.074', '39.1', '+2.1']
    assert line_of(text, 'SNI', 'AP') == ['SNI', '1*', '25.0', '+0.00', 'none', '', '', '37.7', '+0.7']
    assert line_of(text, 'FaPN', 'AP') == ['FaPN', '', '', '', '', '', '', '39.2', '+1.3']
    assert line_of(text, 'FPN + FINE', 'FP')[7:] == ['19417.0', '-2140.0']
    sentence = (
        '- FPN + FINE against FPN: +2.00 (95 % interval -0.48 to +4.48, seeds 0, 1, 2): the interval contains 0: '
    )
    assert f'{sentence}not shown by 3 seeds. The paper has +2.1.' in text
    assert '- SNI against FPN: +0.00 (seed 0): one pair of seeds' in text


def test_markdown_marks_what_is_missing(results):
    text = to_markdown(results)
    states = {label: line_of(text, label, 'Runs')[2] for label in ('FPN', 'SNI', 'FaPN', 'RT-DETR', 'A2-FPN')}
    assert states == {
        'FPN': 'complete',
        'SNI': 'too few seeds: 1 of 3',
        'FaPN': 'not run',
        'RT-DETR': 'waits for the RT-DETR baseline',
        'A2-FPN': 'quoted by the paper, no code here',
    }
    assert line_of(text, 'FPN + FINE', 'Runs')[3:] == ['110.0', '1.100', '600.0', '1.200']
    assert 'FPS is in the paper and not measured here: depends on the GPU.' in text
    assert 'SNI: re-implemented by the paper.' in text


def test_markdown_states_where_it_comes_from(results):
    text = to_markdown(results)
    for line in (
        "| the paper's recipe | 1x, 2 GPUs |",
        '| our recipe | 1x |',
        '| experiment | `bccd-2e-scratch`: dataset bccd, epochs 2, from_scratch yes, amp no |',
        '| finished | 7 runs of 3 rows, 2026-01-01T10:00:00 to 2026-01-03T10:00:00 |',
        '| code | abcdef123456 |',
        '| environment | python 3.11.9; torch 2.13.0; device cpu |',
    ):
        assert line in text
    assert 'Before comparing' not in text


def test_columns_that_nothing_fills_are_left_out(results):
    heading = to_markdown(results).split('\n## AP')[1].splitlines()[2]
    assert 'paper' in heading and 'against' not in heading
    rows = tuple(Row(row.name, row.label, row.config, baseline=row.baseline) for row in make_table().rows[:2])
    bare = gather(make_table(rows=rows), 'x', make_runs())
    assert 'paper' not in to_markdown(bare).split('\n## AP')[1].splitlines()[2]
    assert line_of(to_markdown(bare), 'FPN + FINE', 'AP')[-1] == '0.074'


def test_a_smaller_figure_can_be_the_better_one(results):
    """FP rises by 10, 20, 30 with FINE; with twenty seeds of that kind it is shown to be worse."""
    assert results.row('fine').cells['FP'].difference.mean == pytest.approx(20.0)
    many = [
        make_run(row, seed, 0.2 + rise * (0.02 + 0.001 * seed))
        for row, rise in (('fpn', 0), ('fine', 1))
        for seed in range(9)
    ]
    cells = gather(make_table(), 'x', many).row('fine').cells
    assert cells['AP'].verdict == 'the interval lies above 0: better, by 9 seeds'
    assert cells['FP'].verdict == 'the interval lies above 0: worse, by 9 seeds'


def test_holm_over_the_rows_of_a_column():
    """Two comparisons: the smaller p counts twice, the larger once."""
    runs = [*make_runs(), make_run('sni', 1, 0.27), make_run('sni', 2, 0.2405)]  # differences 0, 1, 0.05
    results = gather(make_table(), 'x', runs)
    fine, sni = (results.row(name).cells['AP'] for name in ('fine', 'sni'))
    assert fine.difference.p < sni.difference.p
    assert fine.p_holm == pytest.approx(2 * fine.difference.p)
    assert sni.p_holm == pytest.approx(sni.difference.p)


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (dict(config_hash='0123456789'), r'different configs \(fine-has: seeds 0, 1, 01234567: seed 2\), .* stale'),
        (dict(settings={**SETTINGS, 'epochs': 3}), 'FPN \\+ FINE: seed 2 had other settings'),
        (dict(git=dict(revision='f' * 40, dirty=False)), 'states of the code: abcdef123456 .6 runs., f{12} .1 run.'),
        (dict(git=dict(revision='abcdef1234567890', dirty=True)), 'abcdef123456 with changes .1 run.'),
        (dict(environment={**ENVIRONMENT, 'torch': '2.9'}), 'more than one torch: 2.13.0, 2.9'),
        (dict(git=None), 'unknown .1 run.'),
    ],
)  # fmt: skip
def test_runs_that_do_not_fit_together_are_told(change, sentence):
    runs = [{**run, **(change if (run['row'], run['seed']) == ('fine', 2) else {})} for run in make_runs()]
    results = gather(make_table(), 'x', runs, settings=SETTINGS)
    assert len(results.faults) == 1 and re.search(sentence, results.faults[0])
    assert f'**Before comparing:**\n\n- {results.faults[0]}' in to_markdown(results)


def test_other_machines_of_a_kind_are_no_fault():
    runs = [{**run, 'environment': {**ENVIRONMENT, 'hostname': f'node{run["seed"]}'}} for run in make_runs()]
    assert gather(make_table(), 'x', runs).faults == []


def test_a_row_that_the_table_lost_is_told():
    results = gather(make_table(), 'x', [*make_runs(), make_run('gone', 0, 0.2)])
    assert results.faults == ["'gone' has 1 run(s), but is no row of fine/table2 any more: left out"]


def test_a_forgotten_scale_is_told():
    results = gather(make_table(scale={}), 'x', make_runs())
    assert len(results.faults) == 1 and "'scale: {AP: 100}' may be missing" in results.faults[0]


@pytest.mark.parametrize('nothing', [math.nan, math.inf, None])
def test_a_figure_without_value_is_left_out(nothing):
    runs = make_runs()
    runs[4]['metrics'] = {'coco/AP': nothing, 'errors/FP': 3.0}  # fine, seed 1
    results = gather(make_table(), 'x', runs)
    cell = results.row('fine').cells['AP']
    assert sorted(cell.values) == [0, 2] and cell.difference.seeds == (0, 2)
    assert results.faults == ["FPN + FINE: seed 1 without a figure for AP (metric 'coco/AP')"]
    runs = [{**run, 'metrics': {'errors/FP': 1.0}} for run in make_runs()]
    assert gather(make_table(), 'x', runs).faults[0] == "FPN: no run has a figure for AP (metric 'coco/AP')"


def test_several_baselines_are_named():
    rows = make_table().rows
    rows = (
        *rows,
        Row('fcos', 'FCOS', 'f.py', paper={'AP': 39.2}),
        Row('fcos-fine', 'FCOS + FINE', 'g.py', baseline='fcos'),
    )
    text = to_markdown(gather(make_table(rows=rows), 'x', make_runs()))
    assert line_of(text, 'FCOS + FINE', 'AP')[1] == 'FCOS'
    assert line_of(text, 'FPN', 'AP')[1] == ''


def test_nothing_has_finished_yet():
    results = gather(make_table(), 'x', [], settings=SETTINGS)
    assert line_of(to_markdown(results), 'FPN', 'Runs')[2] == 'not run'
    assert '| finished | 0 runs of 0 rows |' in to_markdown(results)
    assert report.runs_csv(results).count('\n') == 1


@pytest.mark.parametrize(
    ('options', 'words'), [(dict(min_seeds=0), 'min_seeds=0'), (dict(confidence=95), 'confidence=95')]
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        gather(make_table(), 'x', [], **options)


def test_csv_of_runs(results):
    lines = list(csv.DictReader(io.StringIO(report.runs_csv(results))))
    assert [(line['row'], line['seed']) for line in lines][:4] == [
        ('fpn', '0'),
        ('fpn', '1'),
        ('fpn', '2'),
        ('fine', '0'),
    ]
    assert len(lines) == 7 and float(lines[3]['AP']) == pytest.approx(26.0)
    assert lines[0]['revision'] == 'abcdef1234567890' and lines[0]['config_hash'] == 'fpn-hash'


def test_csv_of_rows(results):
    lines = {line['row']: line for line in csv.DictReader(io.StringIO(report.rows_csv(results)))}
    assert list(lines) == ['fpn', 'fine', 'sni', 'fapn', 'detr', 'old']
    fine = lines['fine']
    assert float(fine['AP difference']) == pytest.approx(2.0) and fine['AP pairs'] == '3'
    assert float(fine['AP low']) < 0 < float(fine['AP high'])
    assert fine['AP paper'] == '39.1' and fine['AP paper_difference'] == '2.1'
    assert lines['fpn']['AP difference'] == lines['fapn']['AP mean'] == ''
    assert (lines['sni']['state'], lines['detr']['state']) == ('too few seeds', 'waits')


def test_json_is_plain(results):
    content = json.loads(json.dumps(results.to_dict(), allow_nan=False))
    fine = content['rows'][1]
    assert fine['cells']['AP']['difference']['mean'] == pytest.approx(2.0)
    assert content['columns'][0] == dict(name='AP', metric='coco/AP', scale=100.0, lower_is_better=False, decimals=1)


def test_bars_show_ours_and_the_papers(results, tmp_path):
    assert bars(results, tmp_path / 'bars.png')
    picture = cv2.imread(str(tmp_path / 'bars.png')).astype(int)
    half = picture.shape[1] // 2
    blue, orange = ((np.abs(picture - colour).sum(axis=2) < 20) for colour in ((178, 114, 0), (0, 159, 230)))
    assert blue[:, :half].sum() > 1000 and blue[:, half:].sum() > 1000
    assert orange[:, half:].sum() > 1000
    again = tmp_path / 'again.png'
    bars(results, again)
    assert again.read_bytes() == (tmp_path / 'bars.png').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['again.png', 'bars.png']


def test_bars_of_another_column(results, tmp_path):
    assert bars(results, tmp_path / 'fp.png', 'FP')
    with pytest.raises(ValueError, match="no column 'AR'; there is AP, FP"):
        bars(results, tmp_path / 'ar.png', 'AR')
    assert not bars(gather(make_table(), 'x', []), tmp_path / 'none.png')
    assert [path.name for path in tmp_path.iterdir()] == ['fp.png']


def test_curves_need_two_epochs(results, tmp_path):
    assert curves(results, tmp_path / 'curves.png')
    assert cv2.imread(str(tmp_path / 'curves.png')).std() > 0
    assert not curves(results, tmp_path / 'fp.png', 'FP')  # not in the histories
    short = [{**run, 'history': run['history'][:1]} for run in make_runs()]
    assert not curves(gather(make_table(), 'x', short), tmp_path / 'short.png')
    assert [path.name for path in tmp_path.iterdir()] == ['curves.png']


def test_command_leaves_everything_beside_the_runs(work_root, monkeypatch, capsys):
    command(work_root, monkeypatch, '--json', str(work_root / 'all.json'))
    folder = work_root / 'fine' / 'table2' / 'bccd-2e-scratch'
    files = {'report.md', 'runs.csv', 'rows.csv', 'bars.png', 'curves.png', 'experiment.json'}
    assert {path.name for path in folder.iterdir() if path.is_file()} == files
    text = (folder / 'report.md').read_text()
    assert text in capsys.readouterr().out
    assert '![bars](bars.png)' in text and '![curves](curves.png)' in text
    assert r'failed: seed 0: ValueError: no \| pipe' in text
    assert json.loads((work_root / 'all.json').read_text())[0]['experiment'] == 'bccd-2e-scratch'
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    command(work_root, monkeypatch)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_command_writes_elsewhere(work_root, monkeypatch, tmp_path):
    command(work_root, monkeypatch, '--out', str(tmp_path / 'out'), '--min-seeds', '1', '--confidence', '0.5')
    text = (tmp_path / 'out' / 'report.md').read_text()
    assert 'too few seeds' not in text and '50 % interval' in text
    assert not (work_root / 'fine' / 'table2' / 'bccd-2e-scratch' / 'report.md').exists()


def test_command_without_runs(work_root, monkeypatch):
    with pytest.raises(
        ValueError, match=r"no experiment under '.*nowhere'; `python tools/reproduce.py train fine/table2"
    ):
        command(work_root / 'nowhere', monkeypatch)
    with pytest.raises(ValueError, match="no experiment 'bccd-3e' .* there is bccd-2e-scratch"):
        command(work_root, monkeypatch, '--name', 'bccd-3e')
    other = work_root / 'fine' / 'table2' / 'other'
    other.mkdir()
    (other / 'experiment.json').write_text('{}')
    with pytest.raises(ValueError, match='choose one with --name: bccd-2e-scratch, other'):
        command(work_root, monkeypatch)
