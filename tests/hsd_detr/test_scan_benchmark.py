"""The command that times the scan: what it measures is what it says, and its table has every row."""

import importlib.util
import json

import pytest
import torch

from mmscale.hsd_detr import scan_benchmark
from mmscale.hsd_detr.scan_benchmark import benchmark_scan, scan_table


def test_forms_side_by_side():
    told, threads = [], torch.get_num_threads()
    report = benchmark_scan((40, 80), repeats=2, sequential_up_to=40, threads=1, progress=told.append)
    found = [(result['tokens'], result['mode'], result['form']) for result in report['results']]
    both = [(40, mode, form) for mode in ('predict', 'train') for form in ('chunked', 'sequential')]
    assert found == both + [(80, 'predict', 'chunked'), (80, 'train', 'chunked')]
    assert len(told) == 3 * len(found), 'a warm-up and two runs of each'
    for result in report['results']:
        assert len(result['latency']['samples']) == 2 and min(result['latency']['samples']) > 0
        value = 4 * 3 * 32 * result['tokens']
        assert result['memory']['tensors'] >= value, 'at least the result'
        assert ('ratio' in result) == (result['form'] == 'sequential')
    trained = {result['form']: result for result in report['results'][2:4]}
    assert trained['sequential']['ratio']['median'] > 0
    assert report['environment']['threads'] == 1 and torch.get_num_threads() == threads, 'as before'
    lines = scan_table(report).splitlines()
    assert lines[0].endswith('3 heads of 32, a state of 16, chunks of 32; 2 runs of each after 1')
    assert [line.split('|')[3].strip() for line in lines[4:]] == [form for _, _, form in found]


def test_no_ratio_to_a_form_that_was_left_out():
    report = benchmark_scan((8, 16), ('sequential', 'chunked'), modes=('predict',), repeats=1, sequential_up_to=8)
    ratios = [(result['tokens'], result['form'], 'ratio' in result) for result in report['results']]
    assert ratios == [(8, 'sequential', False), (8, 'chunked', True), (16, 'chunked', False)]


def test_both_forms_compute_the_same():
    torch.manual_seed(0)
    work = scan_benchmark._Work(100, 2, 3, 4, 5, 16, 'cpu')
    with torch.no_grad():
        torch.testing.assert_close(work.scan('chunked'), work.scan('sequential'), rtol=1e-5, atol=1e-6)
        assert work.scan('chunked').shape == (2, 3, 4, 100)


def test_training_reaches_every_input():
    work = scan_benchmark._Work(20, 1, 2, 4, 3, 8, 'cpu')
    work.scan('chunked').sum().backward()
    assert all(parameter.grad.any() for parameter in work.parameters())
    work.zero_grad()
    work.run('chunked', 'predict')
    assert all(parameter.grad is None for parameter in work.parameters())


@pytest.mark.parametrize(
    'options, error, message',
    [
        (dict(forms=('fast',)), ValueError, r"forms=\['fast'\] should be one or more of sequential, chunked,"),
        (dict(modes=('train', 'train')), ValueError, r'modes=.*each once'),
        (dict(tokens=(0,)), ValueError, r'tokens=\[0\] should be 1 or more'),
        (dict(heads=0), ValueError, 'heads=0 should be 1 or more'),
        (dict(threads=0), ValueError, 'threads=0 should be 1 or more'),
        (dict(warmup=-1), ValueError, 'warmup=-1 should be 0 or more'),
        (dict(forms=('mamba_ssm',)), (ImportError, ValueError), r'mamba_ssm'),
    ],
)
def test_errors(options, error, message):
    with pytest.raises(error, match=message):
        benchmark_scan(**{'tokens': (8,), **options})


def test_command(repo, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('selective_scan_tool', repo / 'tools/analysis/selective_scan.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    options = ['--tokens', '30', '--repeats', '1', '--modes', 'predict', '--threads', '1', '--quiet']
    tool.main([*options, '--json', str(tmp_path / 'scan.json'), '--out', str(tmp_path / 'scan.md')])
    printed = capsys.readouterr().out
    assert '|     30 | predict | sequential |' in printed
    text = (tmp_path / 'scan.md').read_text()
    assert text.startswith('Made by `python tools/analysis/selective_scan.py --tokens 30') and printed.strip() in text
    assert json.loads((tmp_path / 'scan.json').read_text())['settings']['tokens'] == [30]
