"""The benchmark of Partition: what it counts, what it holds, what it leaves out. Nothing here asserts on a time."""

import importlib.util
import json

import pytest
import torch

from mmscale.analysis import OpCounter
from mmscale.analysis.memory import allocated_peak
from mmscale.cfsam import partition_benchmark
from mmscale.cfsam.partition_benchmark import _Work, benchmark_partition, count, needed_memory
from mmscale.cfsam.partition_benchmark_tables import partition_tables

CHANNELS, HIDDEN, LAYERS, HEADS = 256, 384, 3, 8  # CFSAM's defaults, by docs/cfsam.md


def peak(tokens, mode, kernel, parts):
    work = _Work(tokens, mode, kernel, batch_size=1, device='cpu', seed=0)
    return allocated_peak(lambda: work.run(parts))


def matrix(tokens):
    """Bytes of one layer's attention weights."""
    return HEADS * tokens**2 * 4


@pytest.fixture
def tool(repo):
    spec = importlib.util.spec_from_file_location('cfsam_partition', repo / 'tools' / 'analysis' / 'cfsam_partition.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_written_out_matrix_costs_half_with_two_parts():
    one, two, four = (peak(400, 'predict', 'math', parts) for parts in (1, 2, 4))
    assert four < two < one
    # Scores, weights and a mask of one byte a number; what is linear in the tokens falls out of the difference.
    assert one - two == pytest.approx(2.25 * matrix(400) / 2, rel=0.01)
    assert two - four == pytest.approx(2.25 * matrix(400) / 4, rel=0.01)


def test_training_keeps_the_matrix_of_every_layer():
    one, two = (peak(800, 'train', 'math', parts) for parts in (1, 2))
    assert one - two > LAYERS * matrix(800) / 2


@pytest.mark.parametrize('mode', ['predict', 'train'])
def test_pytorch_s_own_kernel_holds_no_matrix_whatever_the_parts(mode):
    one, two = (peak(800, mode, 'default', parts) for parts in (1, 2))
    assert abs(one - two) < 0.1 * matrix(800)  # at most a copy of the tokens
    weights = 4 * sum(weight.numel() for weight in _Work(1, mode, 'default', 1, 'cpu', 0).gfe.parameters())
    assert peak(1600, mode, 'default', 1) + weights < 2.1 * (one + weights)  # linear


@pytest.mark.parametrize(('tokens', 'parts', 'padded'), [(36, 1, 36), (36, 2, 36), (35, 2, 36), (34, 4, 36)])
def test_multiply_adds_by_hand_and_as_they_run(tokens, parts, padded):
    cost = count(tokens, parts, batch_size=2)
    attention = 2 * LAYERS * parts * 2 * (padded // parts) ** 2 * CHANNELS  # two products for each image, layer, part
    linear = 2 * LAYERS * padded * (4 * CHANNELS**2 + 2 * CHANNELS * HIDDEN)
    norms = 2 * LAYERS * padded * 2 * 5 * CHANNELS
    assert cost['attention'] == attention
    work = _Work(tokens, 'predict', 'default', batch_size=2, device='cpu', seed=0)
    with OpCounter() as counter:
        work.run(parts)
    assert counter.macs['attention'] == attention
    assert counter.macs['matrix product'] == linear
    assert counter.macs['normalisation'] == norms
    assert cost['macs'] == counter.total


def test_only_attention_s_share_is_halved():
    one, two = count(1940, 1), count(1940, 2)
    assert two['attention'] * 2 == one['attention']
    assert two['macs'] - two['attention'] == one['macs'] - one['attention']
    assert two['macs'] / one['macs'] == pytest.approx(0.659, abs=0.001)


@pytest.mark.parametrize('mode', ['predict', 'train'])
@pytest.mark.parametrize('kernel', ['default', 'math'])
@pytest.mark.parametrize(('tokens', 'parts'), [(600, 1), (601, 2)])
def test_the_memory_that_is_asked_for_is_enough_and_not_far_off(tokens, parts, mode, kernel):
    work = _Work(tokens, mode, kernel, batch_size=1, device='cpu', seed=0)
    measured = work.memory(parts)['tensors']
    assert measured <= needed_memory(tokens, parts, mode, kernel) <= 1.3 * measured


def test_training_reaches_weights_and_tokens_and_leaves_nothing_behind():
    work = _Work(10, 'train', 'default', batch_size=2, device='cpu', seed=0)
    seen = []
    for tensor in (work.inputs, *work.gfe.parameters()):
        tensor.register_hook(lambda gradient: seen.append(gradient.abs().sum() > 0))
    work.run(2)
    assert len(seen) == 1 + len(list(work.gfe.parameters())) and all(seen)
    assert work.inputs.grad is None and all(weight.grad is None for weight in work.gfe.parameters())


def test_both_kernels_and_every_length_run_the_module_itself():
    work = _Work(35, 'predict', 'default', batch_size=1, device='cpu', seed=0)
    with torch.no_grad():
        out = partition_benchmark._forward(work.gfe, work.inputs, 2)
        with partition_benchmark.sdpa_kernel(partition_benchmark.SDPBackend.MATH):
            plain = partition_benchmark._forward(work.gfe, work.inputs, 2)
    assert out.shape == work.inputs.shape
    torch.testing.assert_close(out, plain)


def test_what_does_not_fit_is_left_out_with_a_sentence(monkeypatch):
    one, two = (needed_memory(200, parts, 'predict', 'math') for parts in (1, 2))
    monkeypatch.setattr(partition_benchmark, 'free_memory', lambda device: (one + two) / 2)
    report = benchmark_partition([200], [1, 2], modes=['predict'], kernels=['math'], repeats=1, warmup=0)
    left_out, measured = report['results']
    assert left_out['skipped'].startswith('not measured: it needs about 0.0 GB') and 'latency' not in left_out
    assert measured['skipped'] is None and measured['latency']['median'] > 0 and 'ratio' not in measured
    assert '- 200 tokens, forward, math kernel, P = 1: not measured' in partition_tables(report)


def test_the_command_prints_and_writes_what_it_measured(tool, tmp_path, capsys):
    threads = torch.get_num_threads()
    files = ['--json', str(tmp_path / 'report.json'), '--out', str(tmp_path / 'report.md')]
    tool.main(
        ['--tokens', '12', '13', '--parts', '1', '2', '--modes', 'predict', '--repeats', '6', '--threads', '1', *files]
    )
    assert torch.get_num_threads() == threads
    printed, progress = capsys.readouterr()
    report = json.loads((tmp_path / 'report.json').read_text())
    assert len(report['costs']) == 4 and len(report['results']) == 2 * 2 * 2
    assert all(len(result['latency']['samples']) == 6 for result in report['results'])
    assert [result['ratio']['to'] for result in report['results'] if result['parts'] == 2] == [1] * 4
    assert 'P = 2 beside P = 1, of 4 rows: time below in' in printed
    assert 'run 6/6 13 tokens, predict, math kernel, P = 2' in progress
    assert (
        (tmp_path / 'report.md').read_text().startswith('Made by `python tools/analysis/cfsam_partition.py --tokens 12')
    )
    assert printed.strip() in (tmp_path / 'report.md').read_text()


def test_runs_of_all_parts_interleave():
    lines = []
    benchmark_partition([8], [1, 2], modes=['predict'], kernels=['default'], repeats=2, warmup=1, progress=lines.append)
    runs = [line.split(':')[0].split()[-1] for line in lines if 'P = ' in line]
    assert runs == ['1', '2'] * 3


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--tokens', '0'], 'tokens=[0] should be different numbers of 1 or more'),
        (['--parts', '2', '2'], 'parts=[2, 2] should be different numbers of 1 or more'),
        (['--modes', 'train', 'train'], "modes=['train', 'train'] should be one or more of predict, train, each once"),
        (['--repeats', '0'], 'repeats=0 should be 1 or more'),
        (['--batch', '0'], 'batch_size=0 should be 1 or more'),
        (['--threads', '0'], 'threads=0 should be 1 or more'),
        (['--device', 'cuda:99'], "device='cuda:99' is not one that PyTorch can use here"),
    ],
)
def test_mistakes_are_told_in_one_line(tool, capsys, options, sentence):
    with pytest.raises(SystemExit) as stop:
        tool.main(options)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count('\n') == 1
