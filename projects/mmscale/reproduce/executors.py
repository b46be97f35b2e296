"""Where jobs run: in processes of this machine, or in a cluster's queue through submitit.

Both take a job when there is room, and hand back what became of it:

======================= ===================================================
``has_room()``          whether another job may be started
``start(job)``          start it
``finished()``          outcomes since the last call
``running``             jobs that have none yet
``close()``             end what still runs
======================= ===================================================
"""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from .process import Job, Outcome, RunProcess, python_path

__all__ = ['LocalExecutor', 'RunTask', 'SubmititExecutor', 'deal_gpus', 'parse_minutes', 'visible_gpus']

HIDDEN = '-1'  # CUDA_VISIBLE_DEVICES of a run that shall see no GPU
ENDING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)  # by a queue, a user, the system
GENERAL = ('mem_gb', 'stderr_to_stdout')  # submitit's names that hold for any cluster
CORES_PER_GPU = 4  # our choice for a queue's job: the training, two loaders and one to spare
REQUEUES = 100  # how often a job that ran out of time goes on: it resumes, so that every time brings it further


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that ``CUDA_VISIBLE_DEVICES`` gives them."""
    import torch

    number, named = torch.cuda.device_count(), os.environ.get('CUDA_VISIBLE_DEVICES')
    names = [name.strip() for name in named.split(',')] if named is not None else [str(i) for i in range(number)]
    return names[:number]


def deal_gpus(visible: list[str], jobs: int | None, gpus_per_job: int | None, runs_per_gpu: int = 1) -> list[str]:
    """Share GPUs out among jobs that run at the same time.

    Args:
        visible (list[str]): The machine's GPUs.
        jobs (int, optional): Jobs at a time; None for as many as there are GPUs for, and one without GPUs.
        gpus_per_job (int, optional): None for one if there is any.
        runs_per_gpu (int): Jobs that may share a GPU. Defaults to 1.

    Returns:
        list[str]: ``CUDA_VISIBLE_DEVICES`` of each job at a time.

    Raises:
        ValueError: If there are not enough GPUs.

    Example:
        >>> deal_gpus(['0', '1', '2', '3', '4'], None, 2)
        ['0,1', '2,3']
        >>> deal_gpus([], 2, None)
        ['-1', '-1']
    """
    if gpus_per_job is None:
        gpus_per_job = 1 if visible else 0
    if gpus_per_job == 0:
        return [HIDDEN] * (jobs or 1)
    groups = [
        ','.join(visible[start : start + gpus_per_job])
        for start in range(0, len(visible) - gpus_per_job + 1, gpus_per_job)
    ] * runs_per_gpu
    if len(groups) < (jobs or 1):
        there = f'{len(visible)} GPU{"" if len(visible) == 1 else "s"} {"is" if len(visible) == 1 else "are"} visible'
        shared = f' --runs-per-gpu {runs_per_gpu}' if runs_per_gpu > 1 else ''
        raise ValueError(
            f'--gpus-per-job {gpus_per_job} --jobs {jobs or 1}{shared} asks for more than there is: {there} here'
        )
    return groups[:jobs]


class LocalExecutor:
    """Runs jobs in processes of this machine.

    Args:
        jobs (int, optional): How many at a time. Defaults to None: as many as there are GPUs for; one without GPUs.
        gpus_per_job (int, optional): Defaults to None: one if there is any, else none.
        runs_per_gpu (int): Jobs that may share a GPU. Defaults to 1.
    """

    def __init__(self, jobs: int | None = None, gpus_per_job: int | None = None, runs_per_gpu: int = 1) -> None:
        visible = visible_gpus() if gpus_per_job != 0 else []
        self.slots = deal_gpus(visible, jobs, gpus_per_job, runs_per_gpu)
        self.gpus_per_job = 0 if self.slots[0] == HIDDEN else len(self.slots[0].split(','))
        self.jobs = len(self.slots)
        self.processes: dict[RunProcess, str] = {}

    @property
    def running(self) -> list[Job]:
        """Jobs without an outcome."""
        return [process.job for process in self.processes]

    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self.slots)

    def start(self, job: Job) -> None:
        """Start a job in a free slot."""
        slot = self.slots.pop(0)
        try:
            self.processes[RunProcess(job, child_environment(slot, self.jobs))] = slot
        except BaseException:
            self.slots.insert(0, slot)
            raise

    def finished(self) -> list[Outcome]:
        """Outcomes since the last call; their slots are free again."""
        over = {process: outcome for process in self.processes if (outcome := process.poll()) is not None}
        for process in over:
            self.slots.append(self.processes.pop(process))
        return list(over.values())

    def close(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.ask_to_end()
        for process in self.processes:
            process.end()
        self.processes.clear()


def child_environment(slot: str | None, jobs: int = 1) -> dict[str, str]:
    """What a run's processes find: this package, their GPUs and, without one, their share of the cores.

    Args:
        slot (str | None): ``CUDA_VISIBLE_DEVICES``; None leaves it as the queue set it.
        jobs (int): Jobs that share the cores. Defaults to 1.
    """
    env = {**os.environ, 'PYTHONPATH': python_path()}
    if slot is not None:
        env['CUDA_VISIBLE_DEVICES'] = slot
    if slot == HIDDEN and not env.get('OMP_NUM_THREADS'):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        env['OMP_NUM_THREADS'] = str(max(1, cores // jobs))
    return env


@contextmanager
def signals_later() -> Iterator[None]:
    """Hold back what may end this process while a child is being started, which nobody would end otherwise."""
    held: list[int] = []
    before = {number: signal.signal(number, lambda caught, _: held.append(caught)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in held:
            os.kill(os.getpid(), number)


class RunTask:
    """A job as submitit runs it, on whichever machine: under the run's lock, and queued again when preempted."""

    def __call__(self, job: Job) -> tuple[str, str]:
        """Do the job.

        Returns:
            tuple[str, str]: ``kind`` and ``error`` of the outcome.
        """
        process = None
        try:
            with signals_later():
                process = RunProcess(job, child_environment(None if job.gpus else HIDDEN))
            outcome = process.wait()
        finally:  # preemption ends this process by an exception, after checkpoint()
            if process is not None:
                process.end()
        return outcome.kind, outcome.error

    def checkpoint(self, job: Job) -> Any:
        """What submitit queues again; the run resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(RunTask(), job)


class SubmititExecutor:
    """Hands jobs to a cluster's queue, one job of the queue per run.

    Args:
        folder (Path): For submitit's own files; on a disk that all machines see.
        jobs (int, optional): How many are in the queue at a time. Defaults to None: all.
        gpus_per_job (int, optional): Defaults to None: one.
        partition (str, optional): Slurm's partition.
        time_limit (int): Minutes after which the queue ends a job, which then goes on in another. Defaults to 1440.
        options (dict[str, Any], optional): More of sbatch's options by submitit's names, for instance ``account``.
        cluster (str): 'slurm', or 'local' for the same without a queue. Defaults to 'slurm'.

    Raises:
        UsageError: If submitit is not installed, the cluster cannot be reached, or it does not know an option.
    """

    def __init__(self, folder: Path, jobs: int | None = None, gpus_per_job: int | None = None,
                 partition: str | None = None, time_limit: int = 1440, options: dict[str, Any] | None = None,
                 cluster: str = 'slurm') -> None:  # fmt: skip
        from mmscale.engine.cli import UsageError

        try:
            import submitit
        except ImportError as error:
            raise UsageError(f'--executor {cluster} needs submitit: pip install submitit') from error
        self.jobs, self.cluster = jobs, cluster
        self.gpus_per_job = 1 if gpus_per_job is None else gpus_per_job
        try:
            self.executor = submitit.AutoExecutor(folder, cluster, **{f'{cluster}_max_num_timeout': REQUEUES})
        except RuntimeError as error:
            raise UsageError(f'--executor {cluster} has to run where jobs are submitted ({error})') from error
        parameters = dict(timeout_min=time_limit, nodes=1, tasks_per_node=1, name='mmscale')
        parameters['cpus_per_task'] = CORES_PER_GPU * max(1, self.gpus_per_job)
        if self.gpus_per_job:
            parameters['gpus_per_node'] = self.gpus_per_job
        if partition is not None:
            parameters['slurm_partition'] = partition
        if jobs is not None:
            parameters['slurm_array_parallelism'] = jobs
        for key, value in (options or {}).items():
            parameters[key if key in parameters or key in GENERAL else f'slurm_{key}'] = value
        try:
            self.executor.update_parameters(**parameters)
        except (NameError, ValueError, AssertionError) as error:
            raise UsageError(f'--slurm-options: {" ".join(str(error).split())}') from error
        self.handles: dict[Any, Job] = {}

    @property
    def running(self) -> list[Job]:
        """Jobs without an outcome, whether they run or wait in the queue."""
        return list(self.handles.values())

    def has_room(self) -> bool:
        """Whether the queue may hold another one."""
        return self.jobs is None or len(self.handles) < self.jobs

    def start(self, job: Job) -> None:
        """Submit a job."""
        with mock.patch.dict(os.environ, PYTHONPATH=python_path()):  # sbatch hands the environment on
            self.handles[self.executor.submit(RunTask(), job)] = job

    def finished(self) -> list[Outcome]:
        """Outcomes since the last call."""
        over = [handle for handle in self.handles if handle.done()]
        return [self._outcome(handle, self.handles.pop(handle)) for handle in over]

    def _outcome(self, handle: Any, job: Job) -> Outcome:
        error = handle.exception()
        if error is None:
            return Outcome(job, *handle.result())
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Outcome(
            job, 'failed', f'job {handle.job_id} of the queue ({handle.state}): {lines[-1] if lines else ""}'
        )

    def close(self) -> None:
        """Take all jobs out of the queue."""
        for handle in self.handles:
            handle.cancel(check=False)
        self.handles.clear()

    def submit_all(self, jobs: list[Job]) -> list[str]:
        """Submit all jobs at once and leave them to the queue; ``jobs`` of the constructor bounds what runs at a time.

        Returns:
            list[str]: The jobs' numbers.
        """
        with mock.patch.dict(os.environ, PYTHONPATH=python_path()), self.executor.batch():
            handles = [self.executor.submit(RunTask(), job) for job in jobs]
        return [handle.job_id for handle in handles]


def parse_minutes(text: str) -> int:
    """A time limit as Slurm writes it: minutes, ``hours:minutes:seconds`` or ``days-hours[:minutes[:seconds]]``.

    Raises:
        ValueError: If it is none.

    Example:
        >>> parse_minutes('90'), parse_minutes('12:00:00'), parse_minutes('2-12')
        (90, 720, 3600)
    """
    if match := re.fullmatch(r'(\d+)-(\d+)(?::(\d+))?(?::(\d+))?', text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    elif match := re.fullmatch(r'(\d+):(\d+):(\d+)', text):
        days, (hours, minutes, seconds) = 0, map(int, match.groups())
    elif re.fullmatch(r'\d+', text):
        days, hours, minutes, seconds = 0, 0, int(text), 0
    else:
        raise ValueError(f"--time-limit '{text}' should be minutes, HH:MM:SS or D-HH[:MM[:SS]]")
    total = (days * 24 + hours) * 60 + minutes + (seconds > 0)
    if total < 1:
        raise ValueError(f"--time-limit '{text}' should be a minute at least")
    return total
