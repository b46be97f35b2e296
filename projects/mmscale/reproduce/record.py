"""What a run notes about itself: time, memory, validations, code and machine."""

import platform
import socket
import subprocess
import time
from numbers import Number
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmscale.analysis.benchmark_worker import environment as stack_environment
from mmscale.analysis.memory import high_water_mark
from mmscale.files import write_json
from mmscale.version import __version__

from .runs import read_json

__all__ = ['RunRecordHook', 'environment', 'git_state', 'numbers']


class RunRecordHook(Hook):
    """Keeps time, peak memory and validations of a training in ``progress.json``, so that they survive a kill.

    The file has an entry for every epoch that stands. A run that resumes at a checkpoint takes up the entries until
    there: time counts once for every epoch, in whichever attempt it was trained, and not for epochs that were lost.
    Validations and writing checkpoints are not in the time. Runs by iteration have an entry per validation.

    Args:
        file (str | Path): ``progress.json``.

    Attributes:
        seconds (float): Training so far, of all attempts.
        peak_memory (int): In bytes, the largest of any process: what PyTorch allocated on the GPU while it trained, or
            on a CPU the resident memory of the whole process, that of a data loader's workers not included.
        history (list[dict]): ``epoch`` and ``metrics`` of every validation.
    """

    priority = 'NORMAL'  # before the logger, which resets the GPU's mark of peak memory

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self.entries: list[dict[str, Any]] = []
        self.seconds, self.peak_memory = 0.0, 0
        self.started: float | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """Epoch and metrics of every validation."""
        return [dict(epoch=entry['epoch'], metrics=entry['metrics']) for entry in self.entries if 'metrics' in entry]

    def before_train(self, runner: Runner) -> None:
        """Take up what an earlier attempt noted, until where this one resumes."""
        self.by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        known, unit = read_json(self.file) or {}, 'epoch' if self.by_epoch else 'iter'
        self.entries = [entry for entry in known.get('entries', []) if entry[unit] <= getattr(runner, unit)]
        self.seconds = self.entries[-1]['seconds'] if self.entries else 0.0
        self.peak_memory = known.get('peak_memory_bytes', 0) if self.entries else 0
        self.write(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the clock."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # a validation's peak is not the training's
        self.started = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Look at the GPU's peak before the logger resets it."""
        if torch.cuda.is_available():
            self.peak_memory = max(self.peak_memory, torch.cuda.max_memory_allocated())

    def after_train_epoch(self, runner: Runner) -> None:
        """Note an epoch; MMEngine counts it only afterwards."""
        self.note(runner, runner.epoch + 1 if self.by_epoch else self._epoch(runner))

    def before_val_epoch(self, runner: Runner) -> None:
        """Stop the clock: a run by iteration validates within its only epoch."""
        if self.started is not None:
            self.note(runner, self._epoch(runner))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Note a validation."""
        if self.entries:
            self.entries[-1]['metrics'] = numbers(metrics or {})
        self.write(runner)
        self.started = None if self.by_epoch else time.perf_counter()

    def note(self, runner: Runner, epoch: float) -> None:
        """Add what the clock shows, and an entry for where the training stands."""
        self.seconds += time.perf_counter() - self.started
        self.started = None
        if not torch.cuda.is_available():
            self.peak_memory = max(self.peak_memory, high_water_mark())
        if not self.entries or self.entries[-1]['iter'] < runner.iter:
            self.entries.append(dict(epoch=epoch, iter=runner.iter))
        self.entries[-1]['seconds'] = self.seconds
        self.write(runner)

    def write(self, runner: Runner) -> None:
        """Leave it all in the file."""
        if is_main_process():
            epochs = runner.max_epochs if self.by_epoch else runner.max_iters / len(runner.train_dataloader)
            write_json(self.file, dict(epoch=self.entries[-1]['epoch'] if self.entries else 0, epochs=epochs,
                                       peak_memory_bytes=self.peak_memory, entries=self.entries))  # fmt: skip

    def _epoch(self, runner: Runner) -> float:
        """Epochs passed; of a run by iteration, its iterations in passes through the data."""
        return runner.epoch if self.by_epoch else round(runner.iter / len(runner.train_dataloader), 3)

    def largest_memory(self) -> int:
        """The peak memory of the process that had the most; every process has to ask."""
        peak = torch.tensor(float(self.peak_memory), dtype=torch.float64)
        all_reduce(peak, 'max')
        return int(peak)


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that are numbers, as plain ones."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, Number)}


def environment(world_size: int) -> dict[str, Any]:
    """What a reader must know of the machine and its software to compare two runs.

    Args:
        world_size (int): Processes that train together.
    """
    cuda = torch.cuda.is_available()
    found = stack_environment('cuda' if cuda else 'cpu')
    versions = {name: version for name, version in found['versions'].items() if version is not None}
    return dict(
        python=platform.python_version(),
        **versions,
        mmscale=__version__,
        device=found['device_name'],
        gpus=world_size if cuda else 0,
        processes=world_size,
        hostname=socket.gethostname(),
    )


def git_state() -> dict[str, Any] | None:
    """The revision of this package's checkout, and whether tracked files were changed since.

    Returns:
        dict | None: ``revision`` and ``dirty``; None where the package is not in a repository of its own, which an
        environment inside somebody's project is not.
    """
    package = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(
            ['git', '-C', str(package), *words], capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()

    try:
        git('ls-files', '--error-unmatch', 'version.py')
        return dict(revision=git('rev-parse', 'HEAD'), dirty=bool(git('status', '--porcelain', '-uno')))
    except (OSError, subprocess.SubprocessError):
        return None
