"""Where jobs run, with workers that need no time: how GPUs are dealt, and what becomes of a job."""

import builtins
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from mmscale.engine.cli import UsageError
from mmscale.reproduce import executors, process
from mmscale.reproduce.executors import LocalExecutor, SubmititExecutor, deal_gpus, parse_minutes, visible_gpus
from mmscale.reproduce.process import Job, RunProcess
from mmscale.reproduce.runs import Run

# Stands in for the worker: ``config.py`` is what it does.
WORKER = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1]).parents[1]
job = json.loads(Path(sys.argv[1]).read_text())
def finish(**content):
    (folder / 'run.json').write_text(json.dumps(dict(job, metrics={}, **content)))
exec((folder / 'job' / 'config.py').read_text())
"""
GPU_VARIABLE = 'CUDA_VISIBLE_DEVICES'
NOTE_ENVIRONMENT = f"""
finish(gpus=os.environ.get({GPU_VARIABLE!r}), threads=os.environ.get('OMP_NUM_THREADS'), path=os.environ['PYTHONPATH'])
"""


def fake_command(job: Job, argument: Path) -> list[str]:
    return [sys.executable, '-c', WORKER, str(argument)]


@pytest.fixture
def make_job(tmp_path, monkeypatch):
    """A function that makes a job of what its worker shall do: ``make_job('finish()', seed=1)``."""
    monkeypatch.setattr(process, 'command', fake_command)

    def make(code: str, seed: int = 0, gpus: int = 0) -> Job:
        run = Run('tiny', 'table1', 'exp', 'plain', seed, tmp_path / 'work')
        return Job(run, code, 'a', dict(epochs=2), 2, gpus)

    return make


def wait_for(executor, number: int = 1) -> list:
    outcomes, limit = [], time.monotonic() + 60
    while len(outcomes) < number and time.monotonic() < limit:
        outcomes += executor.finished()
        time.sleep(0.02)
    assert len(outcomes) == number
    return outcomes


@pytest.mark.parametrize(
    'visible, asked, slots',
    [
        ('', (None, None), ['-1']),
        ('', (3, None), ['-1', '-1', '-1']),
        ('01234', (None, None), ['0', '1', '2', '3', '4']),
        ('01234', (None, 2), ['0,1', '2,3']),
        ('01234', (1, 2), ['0,1']),
        ('01234', (1, 5), ['0,1,2,3,4']),
        ('01', (4, 0), ['-1', '-1', '-1', '-1']),
        ('01', (None, 1, 2), ['0', '1', '0', '1']),
        ('01', (3, 1, 2), ['0', '1', '0']),
    ],
)
def test_deals_gpus(visible, asked, slots):
    assert deal_gpus(list(visible), *asked) == slots


@pytest.mark.parametrize(
    'visible, asked, words',
    [
        ('', (None, 1), '--gpus-per-job 1 --jobs 1 asks for more than there is: 0 GPUs are visible here'),
        ('0', (2, None), '--gpus-per-job 1 --jobs 2 asks for more than there is: 1 GPU is visible here'),
        ('0123', (2, 3), '--gpus-per-job 3 --jobs 2'),
        ('0', (3, 1, 2), '--jobs 3 --runs-per-gpu 2'),
    ],
)
def test_too_few_gpus(visible, asked, words):
    with pytest.raises(ValueError, match=words):
        deal_gpus(list(visible), *asked)


@pytest.mark.parametrize(
    'named, number, visible',
    [
        (None, 2, ['0', '1']),
        ('3,5', 2, ['3', '5']),
        ('GPU-a, GPU-b', 2, ['GPU-a', 'GPU-b']),
        ('-1', 0, []),
        ('', 0, []),
    ],
)
def test_visible_gpus(monkeypatch, named, number, visible):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: number)  # counts what the variable leaves
    monkeypatch.delenv(GPU_VARIABLE, raising=False)
    if named is not None:
        monkeypatch.setenv(GPU_VARIABLE, named)
    assert visible_gpus() == visible


@pytest.mark.parametrize('text, minutes', [('1', 1), ('00:00:30', 1), ('1-00', 1440), ('1-02:30', 1590)])
def test_minutes(text, minutes):
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize('text', ['0', 'long', '1:30', '-5', '1-'])
def test_no_minutes(text):
    with pytest.raises(ValueError, match=f"--time-limit '{text}'"):
        parse_minutes(text)


def test_each_job_at_a_time_has_its_own_gpu(make_job, monkeypatch):
    monkeypatch.setattr(executors, 'visible_gpus', lambda: ['4', '7'])
    executor = LocalExecutor()
    assert (executor.jobs, executor.gpus_per_job) == (2, 1)
    executor.start(make_job('time.sleep(0.3)' + NOTE_ENVIRONMENT, seed=0))
    executor.start(make_job(NOTE_ENVIRONMENT, seed=1))
    assert not executor.has_room() and len(executor.running) == 2
    (first,) = wait_for(executor)
    assert first.kind == 'finished' and first.job.run.seed == 1 and executor.has_room()
    executor.start(make_job(NOTE_ENVIRONMENT, seed=2))
    wait_for(executor, 2)
    assert [make_job('', seed=seed).run.read('run.json')['gpus'] for seed in (0, 1, 2)] == ['4', '7', '7']


def test_jobs_on_a_cpu_share_its_cores(make_job, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(7))
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    executor = LocalExecutor(jobs=3, gpus_per_job=0)
    executor.start(make_job(NOTE_ENVIRONMENT))
    monkeypatch.setenv('OMP_NUM_THREADS', '5')
    executor.start(make_job(NOTE_ENVIRONMENT, seed=1))
    wait_for(executor, 2)
    first, second = (make_job('', seed=seed).run.read('run.json') for seed in (0, 1))
    assert (first['gpus'], first['threads'], second['threads']) == ('-1', '2', '5')
    assert first['path'].split(os.pathsep)[0] == str(Path(process.__file__).parents[2])


@pytest.mark.parametrize(
    'code, error',
    [
        ('print("loading"); raise MemoryError("no room for weights")', 'MemoryError: no room for weights'),
        ('(folder / "job" / "error.txt").write_text("the image is cut off"); sys.exit(2)', 'the image is cut off'),
        ('os.kill(os.getpid(), 9)', 'killed by SIGKILL, as the system does when memory runs out'),
        ('os.kill(os.getpid(), 15)', 'killed by SIGTERM'),
        ('sys.exit(3)', 'it ended with code 3 and printed nothing'),
        ('print("Signal 9 (SIGKILL) received by PID 7"); sys.exit(1)', 'one of its processes was killed by SIGKILL'),
        ('pass', 'it ended with code 0 and printed nothing'),  # and left no result
    ],
)
def test_failure_is_noted(make_job, code, error):
    job = make_job(code)
    outcome = RunProcess(job, dict(os.environ)).wait(0.02)
    assert (outcome.kind, outcome.error) == ('failed', error)
    noted = job.run.read('failed.json')
    assert noted.pop('when').startswith('20')
    assert noted == dict(row='plain', seed=0, error=error, log=str(job.run.log), attempts=1)
    assert job.run.lock().holder() is None


def test_attempts_are_counted_and_an_old_error_is_forgotten(make_job):
    RunProcess(make_job('(folder / "job" / "error.txt").write_text("first"); sys.exit(1)'), dict(os.environ)).wait(0.02)
    job = make_job('print("second"); sys.exit(1)')
    assert RunProcess(job, dict(os.environ)).wait(0.02).error == 'second'
    assert job.run.read('failed.json')['attempts'] == 2
    assert job.run.log.read_text().count('=== ') == 2


def test_busy_and_finished_runs_are_left_alone(make_job):
    job = make_job('finish()')
    lock = job.run.lock()
    assert lock.acquire()
    outcome = RunProcess(job, dict(os.environ)).wait()
    assert outcome.kind == 'busy' and f'process {os.getpid()} on' in outcome.error
    assert not job.run.log.exists()
    lock.release()
    assert RunProcess(job, dict(os.environ)).wait(0.02).kind == 'finished'
    before = job.run.log.read_text()
    assert RunProcess(job, dict(os.environ)).wait().kind == 'passed'
    assert job.run.log.read_text() == before and job.run.lock().holder() is None


def test_run_is_locked_while_it_runs(make_job):
    job = make_job('time.sleep(60)')
    running = RunProcess(job, dict(os.environ))
    assert RunProcess(job, dict(os.environ)).wait().kind == 'busy'
    running.lock.release()  # as if the command had been killed
    assert job.run.lock().holder() is not None
    running.end()
    assert job.run.lock().holder() is None


def test_close_ends_children_of_children(make_job):
    code = """
import subprocess
child = subprocess.Popen(['sleep', '60'])
(folder / 'pid').write_text(f'{child.pid}')
child.wait()
"""
    executor, job = LocalExecutor(gpus_per_job=0), make_job(code)
    executor.start(job)
    pid = job.run.folder / 'pid'
    for _ in range(500):
        if pid.is_file() and pid.read_text():
            break
        time.sleep(0.02)
    start = time.monotonic()
    executor.close()
    assert time.monotonic() - start < 20
    assert executor.running == [] and job.run.lock().holder() is None
    for _ in range(100):  # until its new parent has buried it
        stat = Path(f'/proc/{pid.read_text()}/stat')
        if not stat.exists() or stat.read_text().rpartition(')')[2].split()[0] == 'Z':
            break
        time.sleep(0.02)
    else:
        pytest.fail('the child of the worker still runs')
    assert job.run.read('failed.json') is None  # it did not fail, it was ended


def test_torchrun_starts_several_gpus(make_job, monkeypatch):
    monkeypatch.undo()
    words = process.command(make_job('', gpus=4), Path('job.json'))
    assert words[1:] == [
        *('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=4'),
        *('-m', 'mmscale.reproduce.worker', 'job.json'),
    ]


class FakeTask(executors.RunTask):
    """In submitit's process, with the worker that stands in."""

    def __call__(self, job):
        process.command = fake_command
        return super().__call__(job)

    def checkpoint(self, job):
        from submitit.helpers import DelayedSubmission

        (job.run.folder / 'preempted').touch()
        assert isinstance(super().checkpoint(job), DelayedSubmission)
        return DelayedSubmission(self, job)


def test_submitit_runs_a_job_and_queues_it_again_when_preempted(make_job, tmp_path, repo, monkeypatch):
    pytest.importorskip('submitit')
    monkeypatch.setattr(executors, 'RunTask', FakeTask)
    monkeypatch.setenv('PYTHONPATH', str(repo))  # where the process finds this file
    executor = SubmititExecutor(tmp_path / 'queue', jobs=1, gpus_per_job=0, time_limit=10, cluster='local')
    job = make_job('time.sleep(60) if job["attempts"] == 1 else finish(gpus=os.environ["CUDA_VISIBLE_DEVICES"])')
    assert executor.has_room()
    executor.start(job)
    assert not executor.has_room() and executor.running == [job] and executor.finished() == []
    holder = None
    for _ in range(3000):
        if job.run.log.is_file() and (holder := job.run.lock().holder()):
            break
        time.sleep(0.02)
    os.kill(int(holder.split()[1]), signal.SIGUSR2)  # as Slurm does before it takes the machine away
    (outcome,) = wait_for(executor)
    assert outcome.kind == 'finished', outcome
    assert (job.run.folder / 'preempted').exists()
    assert json.loads((job.run.folder / 'run.json').read_text())['attempts'] == 2
    assert job.run.read('run.json')['gpus'] == '-1'


def test_a_preemption_while_the_run_starts_leaves_no_process(make_job, monkeypatch):
    """Its exception once came before anybody knew the child, which then held the lock and went on alone."""
    started, popen = [], process.subprocess.Popen

    def preempted(*args, **options):
        started.append(popen(*args, **options))
        os.kill(os.getpid(), signal.SIGUSR2)
        return started[0]

    def end(number, frame):
        raise SystemExit(-1)  # as submitit does after checkpoint()

    before = signal.signal(signal.SIGUSR2, end)
    try:
        monkeypatch.setattr(process.subprocess, 'Popen', preempted)
        job = make_job('time.sleep(60)')
        with pytest.raises(SystemExit):
            executors.RunTask()(job)
        assert signal.getsignal(signal.SIGUSR2) is end
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert started[0].poll() is not None and job.run.lock().holder() is None


def test_task_hands_back_why_it_failed(make_job):
    assert executors.RunTask()(make_job('raise OSError("disk full")')) == ('failed', 'OSError: disk full')


# Stands in for sbatch: keeps the file that it is given and says the job's number.
SBATCH = '#!/bin/sh\ncp "$1" "$QUEUE/submitted.sh"\necho "$PYTHONPATH" > "$QUEUE/path"\necho "Submitted batch job 42"\n'


def test_slurm_gets_what_was_asked_for(make_job, tmp_path, monkeypatch):
    pytest.importorskip('submitit')
    for name, text in (('sbatch', SBATCH), ('srun', '#!/bin/sh\n'), ('scancel', '#!/bin/sh\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setenv('QUEUE', str(tmp_path))
    options = dict(account='vision', mem_gb=32)
    executor = SubmititExecutor(tmp_path / 'queue', 3, 2, 'gpu', 90, options)
    executor.start(make_job('finish()', gpus=2))
    lines = (tmp_path / 'submitted.sh').read_text().splitlines()
    wanted = ('account=vision', 'partition=gpu', 'time=90', 'gpus-per-node=2', 'mem=32GB', 'cpus-per-task=8', 'nodes=1')
    assert {f'#SBATCH --{word}' for word in wanted} <= set(lines)
    assert (tmp_path / 'path').read_text().split(os.pathsep)[0].strip() == str(Path(process.__file__).parents[2])
    executor.close()
    numbers = executor.submit_all([make_job('finish()', seed=seed, gpus=2) for seed in range(4)])
    assert numbers == ['42_0', '42_1', '42_2', '42_3']
    assert '#SBATCH --array=0-3%3' in (tmp_path / 'submitted.sh').read_text()  # three at a time
    with pytest.raises(UsageError, match="--slurm-options: Unknown argument 'acount'"):
        SubmititExecutor(tmp_path / 'queue', options=dict(acount='vision'))


def test_without_a_cluster_and_without_submitit(tmp_path, monkeypatch):
    pytest.importorskip('submitit')
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(UsageError, match='srun'):
        SubmititExecutor(tmp_path / 'queue')
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == 'submitit':
            raise ModuleNotFoundError("No module named 'submitit'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', absent)
    with pytest.raises(UsageError, match='--executor slurm needs submitit: pip install submitit'):
        SubmititExecutor(tmp_path / 'queue')
