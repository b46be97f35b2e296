"""One run as processes: started under its lock, watched, ended, and what became of it."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mmscale.files import write_json, write_text

from .runs import Run

__all__ = ['Job', 'Outcome', 'RunProcess', 'python_path']

PATIENCE = 35  # seconds between asking processes to end and ending them; torchrun gives its own 30


@dataclass(frozen=True)
class Job:
    """What is asked of one run.

    Attributes:
        run (Run): Which.
        config (str): The row's config as text.
        config_hash (str): Of the config.
        settings (dict): The experiment's.
        epochs (int | None): How many it trains; None if it counts iterations.
        gpus (int): Processes, each with a GPU of its own; 0 for one process without.
        keep_checkpoints (bool): Whether those of all epochs stay.
    """

    run: Run
    config: str
    config_hash: str
    settings: dict[str, Any]
    epochs: int | None
    gpus: int
    keep_checkpoints: bool = False

    def write(self) -> Path:
        """Leave it for the worker, and count the attempt.

        Returns:
            Path: The worker's argument.
        """
        folder = self.run.folder / 'job'
        attempts = (self.run.read('job/job.json') or {}).get('attempts', 0) + 1
        (folder / 'error.txt').unlink(missing_ok=True)
        write_text(folder / 'config.py', self.config)
        content = {
            **asdict(self.run),
            **{key: value for key, value in vars(self).items() if key not in ('run', 'config')},
        }
        write_json(folder / 'job.json', {**content, 'root': str(self.run.root), 'attempts': attempts})
        return folder / 'job.json'


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job (Job): Which.
        kind (str): 'finished'; 'failed'; 'busy' if somebody else works on the run; 'passed' if somebody else had
            finished it by the time of its turn.
        error (str): One line on why it failed, or on who is busy with it.
    """

    job: Job
    kind: str
    error: str = ''


class RunProcess:
    """A run that was started; :meth:`poll` until there is an outcome, and :meth:`end` in any case.

    Args:
        job (Job): Which.
        env (dict[str, str]): The environment of its processes.
    """

    def __init__(self, job: Job, env: dict[str, str]) -> None:
        self.job, self.process, self.outcome = job, None, None
        self.lock = job.run.lock()
        if not self.lock.acquire():
            self.outcome = Outcome(job, 'busy', f'{self.lock.holder() or "another process"} works on it')
            return
        try:
            if job.run.state(job.config_hash, job.epochs).kind in ('finished', 'stale'):
                self._close(Outcome(job, 'passed'))
                return
            argument = job.write()
            with job.run.log.open('a') as log:
                print(f'=== {datetime.now():%Y-%m-%d %H:%M:%S} {job.run.title}', file=log, flush=True)
                # A group of its own, so that Ctrl-C reaches only us and an end reaches data loaders too. The lock is
                # handed down: should this process be killed, the run goes on and nobody takes it for abandoned.
                self.process = subprocess.Popen(
                    command(job, argument), env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    start_new_session=True, pass_fds=[self.lock.fd],
                )  # fmt: skip
        except BaseException:
            self.lock.release()
            raise

    def poll(self) -> Outcome | None:
        """The outcome, None as long as it runs."""
        if self.outcome is None and self.process.poll() is not None:
            self._signal(signal.SIGKILL)  # what a worker that crashed may have left
            run, code = self.job.run, self.process.returncode
            if code == 0 and run.read('run.json') is not None:
                self._close(Outcome(self.job, 'finished'))
            else:
                error = find_error(run, code)
                content = dict(row=run.row, seed=run.seed, error=error, log=str(run.log))
                content['attempts'] = (run.read('job/job.json') or {}).get('attempts', 1)
                content['when'] = datetime.now(timezone.utc).isoformat(timespec='seconds')
                write_json(run.folder / 'failed.json', content)
                self._close(Outcome(self.job, 'failed', error))
        return self.outcome

    def wait(self, interval: float = 0.2) -> Outcome:
        """Poll until there is an outcome."""
        while (outcome := self.poll()) is None:
            time.sleep(interval)
        return outcome

    def ask_to_end(self) -> None:
        """Tell the processes to end, without waiting for it."""
        if self.process is not None and self.outcome is None:
            self._signal(signal.SIGTERM)

    def end(self) -> None:
        """End the processes, if they have not; what they did up to the last checkpoint stays."""
        if self.process is not None and self.outcome is None:
            self.ask_to_end()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
            self._signal(signal.SIGKILL)
            self.process.wait()
        self.lock.release()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # all gone
            os.killpg(self.process.pid, number)

    def _close(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.lock.release()


def command(job: Job, argument: Path) -> list[str]:
    """The worker's command line: one process, or torchrun with one per GPU and a port of its own."""
    python, worker = [sys.executable], ['-m', 'mmscale.reproduce.worker', str(argument)]
    if job.gpus > 1:
        python += ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={job.gpus}']
    return python + worker


def find_error(run: Run, code: int) -> str:
    """One line on why a run failed: by its worker's own words, by the signal that ended it, or the log's last line."""
    note = run.folder / 'job' / 'error.txt'
    if note.is_file() and (line := note.read_text(encoding='utf-8').strip()):
        return line
    if code < 0:
        name = signal.Signals(-code).name
        return f'killed by {name}' + (', as the system does when memory runs out' if name == 'SIGKILL' else '')
    lines = [line.strip() for line in run.log.read_text(errors='replace').splitlines() if line.strip()]
    lines = lines[max(index for index, line in enumerate(lines) if line.startswith('=== ')) + 1 :]
    if killed := [match[1] for line in lines if (match := re.search(r'Signal \d+ \((SIG\w+)\) received', line))]:
        return f'one of its processes was killed by {killed[-1]}'
    return lines[-1] if lines else f'it ended with code {code} and printed nothing'


def python_path() -> str:
    """``PYTHONPATH`` with which a child finds this package, also where the command was run from a checkout."""
    root, known = Path(__file__).resolve().parents[2], os.environ.get('PYTHONPATH', '')
    if root.name in ('site-packages', 'dist-packages'):
        return known
    return os.pathsep.join([str(root), known] if known else [str(root)])
