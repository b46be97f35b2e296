"""The benchmark's parts in this process, and the whole with real workers. Nothing here asserts on a time."""
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch

from mmscale.analysis import BenchmarkError, benchmark
from mmscale.analysis.benchmark import _names, _Worker
from mmscale.analysis.benchmark_worker import Job, _Bench
from mmscale.analysis.memory import allocated_peak, resident_peak
from mmscale.analysis.model import _random_objects, build_model, load_config, random_batch
from mmscale.analysis.proposals import noted_proposals, pinned_proposals, random_boxes


def job(config, **changes) -> Job:
    fields = dict(input_size=(64, 64), batch_size=2, device='cpu', threads=None, mode='tensor', compile=False,
                  amp=False, pin_proposals=True, cfg_options=None, seed=0)
    return Job(config=str(config), **{**fields, **changes})


@pytest.fixture
def tool(repo):
    spec = importlib.util.spec_from_file_location('benchmark_tool', repo / 'tools' / 'analysis' / 'benchmark.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('mode', ['tensor', 'predict', 'backbone-neck'])
def test_modes_of_a_two_stage_detector(two_stage, mode):
    bench = _Bench(job(two_stage, mode=mode))
    passed, spent = bench.run()
    assert passed > 0 and spent > 0
    description = bench.describe()
    assert description['network_input'] == [2, 3, 64, 64]
    assert description['proposals'] == (None if mode == 'backbone-neck' else 20)
    memory = bench.memory()
    assert memory['weights'] < memory['tensors'] < memory['resident']


def test_a_training_step_reaches_the_backbone_and_starts_anew_each_time(one_stage):
    bench = _Bench(job(one_stage, mode='train'))
    assert bench.model.training
    weight = next(p for p in bench.model.backbone.parameters() if p.requires_grad)
    bench._forward()
    first = weight.grad.clone()
    assert first.abs().sum() > 0
    bench.run()
    bench.memory()
    assert weight.grad.norm() < 1.9 * first.norm()  # not summed up


def test_a_training_step_of_a_two_stage_detector_has_its_own_proposals():
    bench = _Bench(job('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', mode='train'))
    assert bench.describe()['proposals'] is None
    bench._forward()
    assert bench.model.roi_head.bbox_head.fc_reg.weight.grad.abs().sum() > 0


def test_random_objects_lie_in_the_image(one_stage):
    model = build_model(load_config(one_stage))
    _, samples = random_batch(model, (64, 96), batch_size=2, objects=50)
    for sample in samples:
        boxes, labels = sample.gt_instances.bboxes, sample.gt_instances.labels
        assert len(boxes) == len(labels) == 50
        assert (boxes >= 0).all() and (boxes[:, 2:] <= torch.tensor([96.0, 64.0])).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) >= torch.tensor([3.0, 2.0])).all()
        assert set(labels.tolist()) <= set(range(model.bbox_head.num_classes))
    assert 'gt_instances' not in random_batch(model, (64, 96))[1][0]


def test_random_objects_without_a_head_or_without_masks_are_refused(one_stage):
    with pytest.raises(ValueError, match='Linear has no box head'):
        _random_objects(torch.nn.Linear(1, 1), (8, 8), 1, torch.Generator())
    model = build_model(load_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'))
    with pytest.raises(ValueError, match='MaskRCNN trains with masks'):
        random_batch(model, (64, 64), objects=1)


def test_amp_runs_in_bfloat16(one_stage):
    bench = _Bench(job(one_stage, amp=True, mode='backbone-neck'))
    assert {feature.dtype for feature in bench._forward()} == {torch.bfloat16}


def test_compile_reaches_backbone_neck_and_heads_only(two_stage):
    model = _Bench(job(two_stage, compile=True)).model
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
    assert compiled == {'backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.bbox_roi_extractor'}


def test_pinned_proposals_do_not_depend_on_weights(two_stage):
    seen = []
    for seed in (0, 1):
        model = build_model(load_config(two_stage), seed=seed)
        inputs, samples = random_batch(model, (64, 64), batch_size=2)
        model.roi_head.forward = lambda x, proposals, samples: seen.append([p.bboxes for p in proposals]) or ()
        with torch.no_grad(), pinned_proposals(model, (64, 64)) as number, noted_proposals(model) as counts:
            model(inputs, samples, mode='tensor')
        assert (number, counts) == (20, [20, 20])
        assert 'predict' not in vars(model.rpn_head)
    (first, second), (other, _) = seen
    assert torch.equal(first, second) and torch.equal(first, other)


def test_a_detector_without_rpn_has_nothing_to_pin(one_stage):
    model = build_model(load_config(one_stage))
    with pinned_proposals(model, (64, 64)) as number, noted_proposals(model) as counts:
        assert (number, counts) == (None, [])


@pytest.mark.parametrize('size', [(800, 1333), (10, 12)])
def test_random_boxes_lie_inside(size):
    boxes = random_boxes(500, size)
    assert boxes.shape == (500, 4)
    assert (boxes >= 0).all() and (boxes[:, 2] <= size[1] + 1e-3).all() and (boxes[:, 3] <= size[0] + 1e-3).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= min(16, *size) - 1e-3).all()


def test_allocated_peak_is_what_lives_at_once():
    def work():
        first = torch.empty(1000)
        del first
        return [torch.empty(500) for _ in range(3)]

    assert allocated_peak(work) == 3 * 500 * 4


def test_resident_peak_sees_what_was_freed():
    def work():
        torch.ones(50_000_000)  # 200 MB

    before, _ = resident_peak(lambda: None)
    during, is_reset = resident_peak(work)
    assert during - before > 150e6
    if is_reset:
        assert resident_peak(lambda: None)[0] < during - 150e6


def test_names_are_told_apart():
    assert _names(['a/x.py', 'b/x.py', 'b/y.py']) == ['x #1', 'x #2', 'y']


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(mode='test'), "mode must be one of tensor, predict, backbone-neck, train, but is 'test'"),
    (dict(repeats=0), 'repeats must be at least 1, but is 0'),
    (dict(rounds=0), 'rounds must be at least 1, but is 0'),
    (dict(batch_size=-1), 'batch_size must be at least 1, but is -1'),
    (dict(device='mps'), "device must be 'cpu' or 'cuda', but is 'mps'"),
    (dict(input_size=(64, 0)), 'input_size must be height and width'),
])
def test_bad_arguments(one_stage, changes, message):
    with pytest.raises(ValueError, match=message):
        benchmark([one_stage], **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there(one_stage):
    with pytest.raises(ValueError, match="device='cuda' needs a GPU"):
        benchmark([one_stage], device='cuda')


def test_end_to_end(tool, one_stage, deeper_one_stage, tmp_path, capsys):
    target = tmp_path / 'out' / 'report.json'
    code = tool.main([str(one_stage), str(deeper_one_stage), '--shape', '64', '--repeats', '6', '--warmup', '1',
                      '--threads', '1', '--json', str(target)])
    captured = capsys.readouterr()
    assert code == 0
    assert [line.split(':')[0] for line in captured.err.splitlines()[-14:]] == [
        f'{run} {name}' for run in ['warm-up', *(f'run {i}/6' for i in range(1, 7))]
        for name in ('one_stage', 'deeper')]
    assert '| deeper' in captured.out and '(96.9%)' in captured.out
    report = json.loads(target.read_text())
    assert [entry.name for entry in target.parent.iterdir()] == ['report.json']
    first, second = report['results']
    assert second['params'] - first['params'] == 2 * (16 * 16 * 9 + 16)
    assert len(first['latency']['samples']) == 6
    assert first['throughput'] == pytest.approx(1 / first['latency']['median'])
    assert report['ratios'][0]['to'] == 'one_stage'
    for kind in ('latency', 'cpu_time'):
        assert report['ratios'][0][kind]['low'] <= report['ratios'][0][kind]['median']
    # the second branch's convolutions: 4640 floats of weights, and no larger map
    assert second['memory']['weights'] - first['memory']['weights'] == 4 * 4640
    assert report['ratios'][0]['memory_tensors'] > 1
    assert report['environment']['threads'] == 1
    assert report['environment']['versions']['torch'] == torch.__version__
    assert not multiprocessing.active_children()


def test_rounds_have_new_processes_and_the_order_reversed(one_stage, deeper_one_stage):
    lines = []
    report = benchmark([one_stage, deeper_one_stage], 64, repeats=2, warmup=0, rounds=2, threads=1,
                       progress=lambda line: lines.append(line.split(':')[0]))
    assert [line for line in lines if 'building' in line] == [
        f'building {name} (round {i}/2)' for i in (1, 2) for name in ('one_stage', 'deeper')]
    runs = [line for line in lines if line.startswith('run')]
    assert runs[:2] == ['run 1/2 one_stage', 'run 1/2 deeper'] and runs[4:6] == ['run 1/2 deeper', 'run 1/2 one_stage']
    latency = report['results'][0]['latency']
    samples = latency['samples']
    assert len(samples) == 4
    assert latency['compared'] == pytest.approx([(samples[i] + samples[i + 1]) / 2 for i in (0, 2)])
    other = report['results'][1]['latency']['compared']
    ratios = [b / a for a, b in zip(latency['compared'], other, strict=True)]
    assert report['ratios'][0]['latency']['median'] == pytest.approx(sum(ratios) / 2)


def test_a_config_that_fails_ends_it(tool, broken, capsys):
    assert tool.main([str(broken), '--shape', '64']) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("benchmark: 'broken' failed during 'build': KeyError:")
    assert any('Traceback' in line for line in lines)
    assert not multiprocessing.active_children()


def test_a_missing_config_is_one_sentence(tool, capsys):
    assert tool.main(['nowhere.py']) == 1
    assert capsys.readouterr().err == ("benchmark: config 'nowhere.py' does not exist; give a file, or "
                                       "'package::path/in/its/configs.py'\n")


def test_a_worker_that_dies_or_hangs_is_noticed(one_stage):
    with ExitStack() as stack:
        dead = stack.enter_context(_Worker('dead', job(one_stage), timeout=60))
        slow = stack.enter_context(_Worker('slow', job(one_stage), timeout=0.01))
        dead.process.kill()
        with pytest.raises(BenchmarkError, match="'dead' died during 'build' with exit code -9"):
            dead.ask('build')
        with pytest.raises(BenchmarkError, match="'slow' did not finish 'build' within 0.01 s"):
            slow.ask('build')
        slow.process.kill()
    assert not multiprocessing.active_children()


def living_members(group: int) -> list[str]:
    """Command lines of the processes in a group; one that is dead but not yet collected has none."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        with suppress(OSError):
            if os.getpgid(int(entry.name)) == group and (line := (entry / 'cmdline').read_text()):
                found.append(line)
    return found


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='reads /proc')
def test_interrupt_leaves_no_process(repo, one_stage, deeper_one_stage):
    command = [sys.executable, str(repo / 'tools' / 'analysis' / 'benchmark.py'), str(one_stage), str(deeper_one_stage),
               '--shape', '64', '--repeats', '2000']
    # SIGINT as a terminal's shell leaves it: one started in the background has it ignored, and its children too
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                               start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        errors = []
        for line in process.stderr:
            errors.append(line)
            if line.startswith('building'):
                os.killpg(process.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
                break
        errors += process.stderr.readlines()
        assert process.wait(60) == 130, ''.join(errors)
        assert errors[-1] == 'benchmark: interrupted\n'
        assert not any('Traceback' in line for line in errors), ''.join(errors)
        deadline = time.monotonic() + 20
        while (alive := living_members(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not alive
    finally:
        process.poll() is None and os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()
