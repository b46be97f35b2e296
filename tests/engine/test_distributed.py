"""Several processes, on CPUs over gloo: equal weights on every rank, and an end with a reason when one of them dies."""
import os
import subprocess
import sys

import pytest

from mmscale.engine.cli import command, load_config
from mmscale.engine.train import build_parser

# A hook of a stranger's project, on every rank: notes a hash of the final weights, or dies in the middle.
PLUGIN = """
import hashlib, os, signal
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class NoteWeights(Hook):
    def __init__(self, folder):
        self.folder = folder
    def after_train(self, runner):
        digest = hashlib.sha256()
        for value in runner.model.state_dict().values():
            digest.update(value.numpy().tobytes())
        with open(f'{self.folder}/rank{get_rank()}of{get_world_size()}', 'w') as file:
            file.write(digest.hexdigest())

@HOOKS.register_module()
class Die(Hook):
    def after_train_iter(self, runner, **kwargs):
        if get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""
NO_VAL = ['--cfg-options', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']


@pytest.fixture
def launch(write_config, tmp_path, repo):
    """Train in two processes with a hook of the plug-in: ``launch(hook)``."""

    def launch(hook):
        (tmp_path / 'plugin.py').write_text(PLUGIN)
        config = write_config(extra=f'custom_hooks = [{hook}]')
        with open(config, 'a') as file:
            file.write("\ncustom_imports['imports'].append('plugin')\n")
        env = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(tmp_path), 'CUDA_VISIBLE_DEVICES': '-1'}
        env.pop('LOCAL_RANK', None)
        return subprocess.run(
            [str(repo / 'tools' / 'dist_train.sh'), config, '2', '--work-dir', str(tmp_path / 'run'), *NO_VAL], env=env,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, cwd=tmp_path)

    return launch


def test_two_processes_end_with_equal_weights_and_one_checkpoint(launch, tmp_path):
    run = launch(f"dict(type='NoteWeights', folder={str(tmp_path)!r})")
    assert run.returncode == 0, run.stdout[-3000:]
    assert 'over gloo instead of nccl' in run.stdout
    hashes = {path.name: path.read_text() for path in tmp_path.glob('rank*')}
    assert sorted(hashes) == ['rank0of2', 'rank1of2']
    assert hashes['rank0of2'] == hashes['rank1of2']
    assert sorted(path.name for path in (tmp_path / 'run').rglob('*.pth')) == ['epoch_1.pth']


def test_dying_rank_ends_the_other_with_a_reason(launch, tmp_path):
    run = launch("dict(type='Die')")  # fails after 120 seconds
    assert run.returncode != 0
    assert 'SIGKILL' in run.stdout and 'rank      : 1 (local_rank: 1)' in run.stdout, run.stdout[-3000:]
    assert not list((tmp_path / 'run').rglob('*.pth'))


def test_failing_rank_tells_torchrun_its_reason(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'error.json'))  # as torchrun does for each rank

    def fail(argv):
        raise RuntimeError('the disk of rank 1 is on fire')

    with pytest.raises(RuntimeError):
        command(fail)([])
    assert 'the disk of rank 1 is on fire' in (tmp_path / 'error.json').read_text()


@pytest.mark.parametrize('launcher, environment, expected', [
    ('mpi', dict(OMPI_COMM_WORLD_LOCAL_RANK='3'), '3'),
    ('slurm', dict(SLURM_LOCALID='2'), '2'),
    ('pytorch', dict(LOCAL_RANK='1', SLURM_LOCALID='0'), '1'),  # torchrun in a job of Slurm
    ('none', {}, '0')])
def test_every_process_knows_its_place_on_the_machine(write_config, monkeypatch, launcher, environment, expected):
    for name in ('LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'SLURM_LOCALID'):
        monkeypatch.setenv(name, environment.get(name, ''))  # so that it is restored afterwards
        if name not in environment:
            monkeypatch.delenv(name)
    load_config(build_parser().parse_args([write_config(), '--launcher', launcher]))
    assert os.environ['LOCAL_RANK'] == expected


@pytest.mark.parametrize('script, words', [
    ('dist_train.sh', 'CONFIG GPUS'),
    ('dist_test.sh', 'CONFIG CHECKPOINT GPUS'),
    ('slurm_train.sh', 'PARTITION JOB_NAME CONFIG WORK_DIR'),
    ('slurm_test.sh', 'PARTITION JOB_NAME CONFIG CHECKPOINT')])
def test_scripts_say_how_they_are_used(repo, script, words):
    run = subprocess.run([str(repo / 'tools' / script)], capture_output=True, text=True, timeout=10)
    assert run.returncode == 2 and words in run.stderr


@pytest.mark.parametrize('script, last', [
    ('slurm_train.sh', ['--work-dir', 'run dir', '--launcher', 'slurm', '--amp']),
    ('slurm_test.sh', ['run dir', '--launcher', 'slurm', '--amp'])])
def test_slurm_scripts_call_srun(repo, tmp_path, script, last):
    (tmp_path / 'srun').write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    (tmp_path / 'srun').chmod(0o755)
    env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'GPUS': '4', 'SRUN_ARGS': '--time=60 --qos=low'}
    run = subprocess.run([str(repo / 'tools' / script), 'gpu', 'job', 'a config.py', 'run dir', '--amp'], env=env,
                         capture_output=True, text=True, timeout=10)
    words = run.stdout.splitlines()
    assert words[:4] == ['--partition=gpu', '--job-name=job', '--gres=gpu:4', '--ntasks=4']
    assert {'--ntasks-per-node=4', '--kill-on-bad-exit=1', '--time=60', '--qos=low'} <= set(words)
    assert words[-len(last) - 1:] == ['a config.py', *last]
