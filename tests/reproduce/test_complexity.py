import json
import subprocess
import sys

import pytest

from mmscale.reproduce import cli
from mmscale.reproduce.complexity import Cost, count, to_json, to_markdown
from mmscale.reproduce.spec import Counting, Row, find, load_paper

CONFIG = """
_base_ = 'mmscale::fine/fcos_r18_fpn-fine_2e_bccd.py'
model = dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
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
    baseline: plain
    task: detection
    metrics: {AP: coco/AP}
    flops: 2xmacs
    input_size: [160, 160]
    tolerance: {params: 50, flops: 0.5}
    rows:
      - name: plain
        label: Plain
        set:
          model.neck:
            {_delete_: true, type: FPN, in_channels: [8, 16, 32, 64], out_channels: 32, start_level: 1, num_outs: 5,
             add_extra_convs: on_output, relu_before_extra_convs: true}
        paper: {params: 0.2}
      - {name: fine, label: FINE, paper: {params_delta: 0.017, flops_delta: 1}}
      - {name: broken, label: Broken, set: {model.neck.fine.num_heads: 5}}
      - {name: later, label: Later, waits_for: another day, paper: {params: 3}}
      - {name: quoted, label: Quoted, quoted: true, paper: {params: 4}}
"""


@pytest.fixture
def table(tmp_path):
    folder = tmp_path / 'demo'
    folder.mkdir()
    (folder / 'base.py').write_text(CONFIG)
    (folder / 'tables.yml').write_text(TABLES)
    return load_paper(folder / 'tables.yml').tables['table1']


def test_rows_are_counted_beside_the_papers_figures(table):
    costs = {cost.row.name: cost for cost in count([table], jobs=2, progress=False)[table.name]}
    assert [name for name, cost in costs.items() if cost.error] == ['broken'], [cost.error for cost in costs.values()]
    plain, fine = costs['plain'].ours, costs['fine'].ours
    added = 2 * (8 * 32**2 + 8 * 32)  # two FINE modules with their biases
    assert fine['params_delta'] == pytest.approx(added / 1e6, abs=1e-9)
    assert fine['params'] == pytest.approx(plain['params'] + added / 1e6)
    assert costs['fine'].result['macs'] * 2 / 1e9 == fine['flops'], 'the table counts two per multiply-add'
    assert costs['fine'].difference('params_delta') == pytest.approx(100 * (added / 17_000 - 1))
    assert 'num_heads=5' in costs['broken'].error and not costs['broken'].ours
    assert not costs['later'].ours and not costs['later'].error
    some = count([table], jobs=1, progress=False, names=['fine'])[table.name]
    assert [cost.row.name for cost in some] == ['plain', 'fine'] and some[1].ours == fine
    text = to_markdown(table, list(costs.values()))
    line = next(line for line in text.splitlines() if line.startswith('| FINE'))
    assert line.rstrip(' |').endswith('% !'), 'GFLOPs are off by more than 0.5 %'
    assert line.count('!') == 1, 'the parameters are within 50 %'
    assert '- waits for another day: Later' in text and 'Quoted: quoted by the paper' in text
    assert '- Broken: failed: ' in text
    stated = json.loads(json.dumps(to_json(table, list(costs.values()))))
    assert stated['rows'][1]['result']['params'] - stated['rows'][0]['result']['params'] == added


def test_equal_networks_are_counted_once(table, monkeypatch):
    from mmscale.reproduce import complexity

    asked = []
    monkeypatch.setattr(complexity, '_count_all', lambda networks, *_: asked.append(networks) or dict.fromkeys(
        networks, dict(params=10**6, macs=10**9, unknown={})))  # fmt: skip
    heads = find('fine/table4')[0]
    ratios = find('fine/figure5')[0]
    counted = count([heads, ratios], progress=False)
    rows = len(heads.rows) + len(ratios.rows)
    # the baseline stands in both; h = 16 is not figure 5's, which samples with the same k at both levels
    assert len(asked[0]) == rows - 1
    assert [cost.ours['params'] for cost in counted['fine/table4']] == [1.0] * 8


@pytest.mark.parametrize('paper, ours, expected', [(2.0, 2.03, '+1.5 % !'), (2.0, 1.99, '-0.5 %'), (None, 2.0, '')])
def test_the_marker(table, paper, ours, expected):
    from mmscale.reproduce.complexity import _difference

    row = Row('a', 'A', 'x.py', paper={} if paper is None else {'params': paper})
    assert _difference(Cost(row, {'params': ours}), 'params', Counting('macs', (8, 8))) == expected


def test_list_and_show_need_no_torch(repo):
    for words in (['list'], ['show', 'fine/table4']):
        command = [sys.executable, '-X', 'importtime', str(repo / 'tools' / 'reproduce.py'), *words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env={'PYTHONPATH': str(repo / 'projects')}
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert 'Number of attention heads' in done.stdout
        imported = {line.split('|')[-1].strip() for line in done.stderr.splitlines()}
        assert 'mmscale.reproduce.spec' in imported and not imported & {'torch', 'mmengine', 'mmcv', 'mmdet'}


def test_a_mistake_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['reproduce.py'])
    for words, sentence in (
        (['show', 'fine/tabel4'], "error: paper 'fine' has no table 'tabel4', did you mean 'table4'?\n"),
        (['complexity', 'fien'], "error: there is no paper 'fien', did you mean 'fine'?\n"),
        (['complexity', 'fine/figure7-rt-detr'], 'states how its operations are counted'),
        (['complexity', 'fine/table4', '--jobs', '0'], 'error: --jobs 0 should be 1 or more\n'),
        (['complexity', 'fine/table1', '--rows', 'retinanet'], "error: --rows needs one table: 'fine/table1' has "),
        (['complexity', 'fine/table4', '--rows', 'heads5'], "error: table 'fine/table4' has no row 'heads5', did you"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 2
        assert sentence in capsys.readouterr().err


def test_check_covers_every_table(capsys):
    cli.main(['check', 'fine/table4'])
    assert capsys.readouterr().out == '8 rows in 1 tables: every override fits its config.\n'
