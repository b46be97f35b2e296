"""Where runs lie and what they leave.

One run is one row of a table with one seed, in one experiment (one choice of data set, epochs and the like)::

    <work root>/<paper>/<table>/<experiment>/experiment.json       settings, and the rows and seeds last asked for
    <work root>/<paper>/<table>/<experiment>/<row>/seed<k>/
        job/config.py, job/job.json   what was asked for, before the run fitted it to its data
        config.py, log.txt, *.pth     what the runner leaves, and all that it printed
        progress.json                 after every epoch: time, memory, validations
        run.json                      when it is finished, whole or not at all
        failed.json                   when the last attempt failed
        run.lock                      held by whoever works on it
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lock import RunLock
from .spec import NAME, Table

__all__ = [
    'WORK_ROOT',
    'Run',
    'State',
    'check_name',
    'default_name',
    'differences',
    'experiment_folder',
    'experiments',
    'load_experiment',
    'load_failures',
    'load_runs',
    'read_json',
]

WORK_ROOT = Path('work_dirs') / 'reproduce'


@dataclass(frozen=True)
class State:
    """What there is of a run.

    Attributes:
        kind (str): What has to be done about it.

            - 'new': all of it
            - 'cut': it resumes
            - 'trained': only the test is missing
            - 'finished': nothing
            - 'stale': finished or cut, but of another config than the row has now; nothing unless the user says so
        text (str): The same for a reader.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Run:
    """One row with one seed, in one experiment.

    Attributes:
        paper (str): As in ``configs/<paper>``.
        table (str): The table's key.
        experiment (str): The experiment's name.
        row (str): The row's name.
        seed (int): From 0.
        root (Path): The folder of all runs. Defaults to ``work_dirs/reproduce``.

    Example:
        >>> run = Run('fine', 'table4', 'bccd-12e', 'heads-8', 0)
        >>> print(run.title, '|', run.folder)
        fine/table4 heads-8 seed 0 | work_dirs/reproduce/fine/table4/bccd-12e/heads-8/seed0
    """

    paper: str
    table: str
    experiment: str
    row: str
    seed: int
    root: Path = WORK_ROOT

    @property
    def title(self) -> str:
        """What the user knows it by."""
        return f'{self.paper}/{self.table} {self.row} seed {self.seed}'

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return Path(self.root) / self.paper / self.table / self.experiment / self.row / f'seed{self.seed}'

    @property
    def log(self) -> Path:
        """All that its processes printed, of every attempt."""
        return self.folder / 'log.txt'

    def read(self, name: str) -> dict[str, Any] | None:
        """One of its JSON files, None if it is not there."""
        return read_json(self.folder / name)

    def lock(self) -> RunLock:
        """Its lock, not yet taken."""
        return RunLock(self.folder / 'run.lock')

    def state(self, config_hash: str, epochs: int | None = None) -> State:
        """What there is of the run, seen from the row's config of today.

        Args:
            config_hash (str): Of that config.
            epochs (int, optional): How many it trains. Defaults to None: it counts iterations.
        """
        checkpoint, epoch = self._newest_checkpoint()
        if (result := self.read('run.json')) is not None:
            if result.get('config_hash') == config_hash:
                return State('finished', 'finished')
            return State('stale', "finished, but the row's config has changed since")
        job = self.read('job/job.json') or {}
        if checkpoint and job.get('config_hash') != config_hash:
            return State('stale', f"cut after {checkpoint}, and the row's config has changed since")
        failed = ', failed before' if self.read('failed.json') is not None else ''
        if not checkpoint:
            return State('new', f'new{failed}')
        if epochs is not None and epoch >= epochs:
            return State('trained', f'trained, only the test is missing{failed}')
        where = f'resumes at epoch {epoch + 1} of {epochs}' if epoch else f'resumes from {checkpoint}'
        return State('cut', where + failed)

    def _newest_checkpoint(self) -> tuple[str, int]:
        """Its name, empty if there is none, and its epoch, 0 if it counts iterations."""
        from mmscale.engine.checkpoint import latest_checkpoint

        path = latest_checkpoint(self.folder)[0]
        match = path and re.fullmatch(r'epoch_(\d+)\.pth', path.name)
        return (path.name if path else ''), (int(match[1]) if match else 0)

    def discard(self) -> None:
        """Remove all but the lock, which the caller holds; the result goes first, so that no run is ever half."""
        (self.folder / 'run.json').unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != 'run.lock':
                path.unlink()


def read_json(path: str | Path) -> dict[str, Any] | None:
    """A JSON file's content, None if there is no such file.

    Raises:
        ValueError: If it is there and holds no JSON object.
    """
    content = None
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:  # told below, since a command shows the first error of a chain
        pass
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' is damaged, it should hold a JSON object: remove it and run again")
    return content


def default_name(settings: Any) -> str:
    """An experiment's name if the user gives none.

    Args:
        settings (Settings): Its ``dataset``, ``epochs`` and ``from_scratch`` are looked at.

    Example:
        >>> from types import SimpleNamespace
        >>> default_name(SimpleNamespace(dataset='bccd', epochs=12, from_scratch=True))
        'bccd-12e-scratch'
    """
    name = settings.dataset or 'own'
    if settings.epochs is not None:
        name += f'-{settings.epochs}e'
    return name + ('-scratch' if settings.from_scratch else '')


def check_name(name: str) -> str:
    """Return an experiment's name if a folder may be called so.

    Raises:
        ValueError: If not.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"--name '{name}' should be letters, digits, '.', '_' and '-', and begin with one of the first"
        )
    return name


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings that differ, for a reader.

    Example:
        >>> differences({'epochs': 12, 'amp': False}, {'epochs': 24, 'amp': False})
        ['epochs was 12 and is 24']
    """
    before, now = json.loads(json.dumps([before, now]))  # tuples become lists, as in the file
    return [
        f'{key} was {before.get(key)!r} and is {now.get(key)!r}'
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]


def experiment_folder(table: Table, experiment: str, work_root: str | Path = WORK_ROOT) -> Path:
    """Where an experiment's runs lie."""
    return Path(work_root) / table.paper / table.key / experiment


def experiments(table: Table, work_root: str | Path = WORK_ROOT) -> list[str]:
    """Names of the experiments that were begun with a table."""
    return sorted(file.parent.name for file in experiment_folder(table, '', work_root).glob('*/experiment.json'))


def load_experiment(table: Table, experiment: str, work_root: str | Path = WORK_ROOT) -> dict[str, Any] | None:
    """``experiment.json``: the settings of all its runs, the rows and the number of seeds last asked for."""
    return read_json(experiment_folder(table, experiment, work_root) / 'experiment.json')


def load_runs(table: Table, experiment: str, work_root: str | Path = WORK_ROOT) -> list[dict[str, Any]]:
    """What the finished runs of an experiment left, by the table's order of rows, then by seed.

    Rows that the table no longer has come last.
    """
    return _collect(table, experiment, work_root, 'run.json')


def load_failures(table: Table, experiment: str, work_root: str | Path = WORK_ROOT) -> list[dict[str, Any]]:
    """The same of the runs whose last attempt failed: row, seed, error and where the log lies."""
    return _collect(table, experiment, work_root, 'failed.json')


def _collect(table: Table, experiment: str, work_root: str | Path, name: str) -> list[dict[str, Any]]:
    order = {row.name: index for index, row in enumerate(table.rows)}
    found = []
    for file in experiment_folder(table, experiment, work_root).glob(f'*/seed*/{name}'):
        if match := re.fullmatch(r'seed(\d+)', file.parent.name):
            row = file.parent.parent.name
            found.append(((order.get(row, len(order)), row, int(match[1])), read_json(file)))
    return [content for _, content in sorted(found, key=lambda pair: pair[0]) if content is not None]
