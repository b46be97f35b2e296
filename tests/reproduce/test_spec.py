import re

import pytest

from mmscale.reproduce.spec import SpecError, find, load_paper, load_papers, papers_of

MINIMAL = """
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
    flops: macs
    input_size: [96, 128]
    rows:
      - name: plain
        label: Plain
        paper: {params: 1.5, AP: 30}
      - name: better
        label: Better
        set: {model.neck.num_outs: 3}
        paper: {AP: 31.5}
        paper_baseline: {AP: 30.5}
"""


@pytest.fixture
def write(tmp_path):
    folder = tmp_path / 'demo'
    folder.mkdir()
    (folder / 'base.py').write_text("model = dict(type='FCOS')\n")
    count = 0

    def write(text):
        nonlocal count
        count += 1
        file = folder / f'tables{count}.yml'  # files are read once
        file.write_text(text)
        return file

    return write


def test_reads_what_is_written(write):
    paper = load_paper(write(MINIMAL))
    table = paper.tables['table1']
    assert (paper.name, paper.title, table.name) == ('demo', 'A paper', 'demo/table1')
    assert table.counting.input_size == (96, 128) and table.counting.scaled(2.0) == 2.0
    plain, better = table.rows
    assert plain.baseline is None and better.baseline == 'plain'
    assert plain.config == better.config and plain.config.endswith('base.py')
    assert better.set == {'model.neck.num_outs': 3}
    assert better.paper == {'AP': 31.5} and better.paper_baseline == {'AP': 30.5}
    assert [row.name for row in table.select()] == ['plain', 'better']
    assert [row.name for row in table.select(['better', 'plain', 'better'])] == ['plain', 'better']


@pytest.mark.parametrize(
    'before, after, sentence',
    [
        ('task:', 'taks: x\n    task:', "table 'table1': there is no key 'taks', did you mean 'task'?"),
        ('set:', 'sett:', "row 'better': there is no key 'sett', did you mean 'set'?"),
        ('name: better', 'name: plain', "row 'plain': the name stands twice"),
        ('name: better', 'name: better one', "row 2: 'name' should be letters"),
        ('task: detection', 'task: guess', "'task' should be one of detection, instance"),
        ('flops: macs', 'flops: flops', "'flops' should be one of macs, 2xmacs, but is 'flops'"),
        ('    flops: macs\n', '', "'input_size' needs 'flops' beside it"),
        ('[96, 128]', '[96]', "'input_size' should be height and width, but is [96]"),
        ('paper: {params: 1.5', 'paper: {parms: 1.5', "'paper' has no column 'parms', did you mean 'params'?"),
        ('AP: 31.5', 'AP: many', "'paper.AP' should be a number, but is 'many'"),
        ('baseline: plain', 'baseline: plane', "'baseline' names no row 'plane', did you mean 'plain'?"),
        ('base: base.py', 'base: bass.py', "the config 'bass.py' does not exist, did you mean 'base.py'?"),
        ('    base: base.py\n', '', "has no 'config', and the table has no 'base'"),
        ('label: Better', 'label: Better\n        quoted: true', "a row that cannot run should not have 'set'"),
        ('label: Better', 'label: Better\n        label: Best', "the key 'label' stands twice"),
        ('{AP: coco/AP}', '{params: coco/AP}', "the column 'params', which is a cost's name"),
        ('recipe: {paper: theirs, ours: ours}', 'recipe: {paper: theirs}', "the key 'ours' is missing"),
        ('label: Better\n', 'label: Better\n        baseline: better2\n', "'baseline' names no row 'better2'"),
        ('title: A paper', 'title: [A', 'is not YAML'),
        ('flops: macs', 'flops: [macs]', "'flops' should be one of macs, 2xmacs, but is ['macs']"),
        (
            'flops: macs',
            'flops: macs\n    tolerance: {params: -1}',
            "'tolerance.params' should be 0 or more, but is -1",
        ),
        ('flops: macs', 'flops: macs\n    lower_is_better: [[AP]]', "'lower_is_better' should list columns"),
        ('flops: macs', 'flops: macs\n    unmeasured: {FPS: 5}', "'FPS' should be a text, but is 5"),
        (
            'flops: macs',
            'flops: macs\n    unmeasured: {AP: why}',
            "'unmeasured' has the column 'AP', which is measured",
        ),
        ('flops: macs', 'flops: macs\n    scale: {AP: 0}', "'scale.AP' should be above 0, but is 0"),
        ('flops: macs', 'flops: macs\n    scale: []', "'scale': should map names to values, but is []"),
        ('flops: macs', 'flops: macs\n    evaluators: [{type: 5}]', "'evaluators' should list metrics with a 'type'"),
        ('{AP: coco/AP}', '{AP: ""}', "'metrics' should map columns to names of metrics"),
        ('AP: 31.5', 'AP: .nan', "'paper.AP' should be a number, but is nan"),
        ('set: {model.neck.num_outs: 3}', 'set: {? [a] : 3}', "is not YAML: ['a'] is no name"),
        (
            'set: {model.neck.num_outs: 3}',
            'set: {model.neck: {1: 2}}',
            "'set', 'model.neck': should map names to values",
        ),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(write, before, after, sentence):
    assert before in MINIMAL
    file = write(MINIMAL.replace(before, after, 1))
    with pytest.raises(SpecError, match=re.escape(sentence)) as error:
        load_paper(file)
    assert str(error.value).startswith(f'{file}: ') and '\n' not in str(error.value)


def test_a_file_that_is_no_text_is_named(write):
    file = write('')
    file.write_bytes(b'\xff\xfe')
    with pytest.raises(SpecError, match='tables1.yml: is not YAML: '):
        load_paper(file)


def test_a_baseline_is_compared_with_nothing(write):
    text = MINIMAL.replace('label: Plain', 'label: Plain\n        baseline: better')
    with pytest.raises(SpecError, match="its baseline '(better|plain)' is compared with another row itself"):
        load_paper(write(text))


def test_rows_that_cannot_run(write):
    text = MINIMAL.replace('        set: {model.neck.num_outs: 3}\n', '        waits_for: a neck\n')
    table = load_paper(write(text)).tables['table1']
    assert [row.name for row in table.select()] == ['plain']
    with pytest.raises(ValueError, match="row 'better' of demo/table1 cannot run yet: it waits for a neck"):
        table.select(['better'])
    with pytest.raises(ValueError, match="has no row 'beter', did you mean 'better'?"):
        table.select(['beter'])


def test_a_row_that_cannot_run_has_no_data(write):
    text = MINIMAL.replace('set: {model.neck.num_outs: 3}\n', 'waits_for: a neck\n        dataset: coco\n')
    with pytest.raises(SpecError, match="a row that cannot run should not have 'dataset'"):
        load_paper(write(text))


def test_tables_are_found_by_name():
    assert [table.name for table in find('fine/table4')] == ['fine/table4']
    assert [table.key for table in find('fine/table1')] == ['table1-classic', 'table1-realtime']
    assert len(find('fine')) == len(papers_of('fine')[0].tables)
    with pytest.raises(ValueError, match="paper 'fine' has no table 'tabel4', did you mean 'table4'?"):
        find('fine/tabel4')
    with pytest.raises(ValueError, match="there is no paper 'fin', did you mean 'fine'?"):
        find('fin/table4')
    with pytest.raises(ValueError, match='there is no paper'):
        find('../fine')


def test_the_papers_of_this_project_are_read():
    papers = load_papers()
    assert 'fine' in papers
    for paper in papers.values():
        for table in paper.tables.values():
            assert any(row.paper for row in table.rows) or 'the paper has' in table.source, (
                f'{table.name} states no figure'
            )
