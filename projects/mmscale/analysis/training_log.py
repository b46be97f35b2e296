"""What a training wrote about itself: the scalars of a work dir, the parts of a resumed run joined.

MMEngine leaves ``<work dir>/<timestamp>/vis_data/scalars.json``, a JSON object per line, in a new folder of that kind
each time it starts. A line of training has ``iter`` and, unless its loop counts iterations, ``epoch``; a value
such as ``loss`` is the mean over the last iterations (``log_processor.window_size``, 10 by default). A line of
validation has only its metrics and ``step``, which is the epoch. ``tools/reproduce.py`` leaves the same in each of its
run folders.
"""

import ast
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from os import PathLike
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

__all__ = ['Record', 'TrainingLog', 'log_files', 'read_training_log']

FIRST_LINE = re.compile(r'Epoch\(train\)\s*\[\s*\d+\]\[\s*(\d+)/(\d+)\]')
PROCESSES = re.compile(r'GPU number: (\d+)')
STAMPED = re.compile(r'\d{8}_\d{6}\.json')
SLACK = 1e-9  # of positions that were divided by different numbers


@dataclass(frozen=True)
class Record:
    """One line of a log.

    Attributes:
        position (float): Epochs that had passed, with their fraction; iterations for a run that counts those.
        iteration (float): Iterations that had passed, as the run counts them.
        pace (float): Seconds that one unit of the position took about then; NaN where it was not logged.
        values (dict[str, float]): Its scalars, without 'train/' or 'val/' before their names.
    """

    position: float
    iteration: float
    pace: float
    values: dict[str, float]


@dataclass
class TrainingLog:
    """All that is known of one run.

    Attributes:
        path (Path): The work dir.
        by_epoch (bool): Whether positions are epochs; else iterations.
        train (list[Record]): Lines of training.
        val (list[Record]): Lines of validation.
        batch_size (int | None): Images per iteration, over all processes; None where the work dir does not tell.
        notes (list[str]): What was left out or joined, one sentence each.
    """

    path: Path
    by_epoch: bool
    train: list[Record] = field(default_factory=list)
    val: list[Record] = field(default_factory=list)
    batch_size: int | None = None
    notes: list[str] = field(default_factory=list)

    def keys(self, kind: str) -> list[str]:
        """Names of the scalars in the lines of a kind, 'train' or 'val'."""
        return sorted({key for record in getattr(self, kind) for key in record.values})

    def coordinate(self, records: Iterable[Record], axis: str) -> np.ndarray:
        """Where records lie on an axis.

        Args:
            records (Iterable[Record]): Of this log.
            axis (str): 'epoch', 'iter', or 'time': hours of training, validations not included, summed up from the
                seconds per iteration that the lines of training tell.

        Raises:
            ValueError: If the run has no such axis.
        """
        records = list(records)
        if axis == 'epoch':
            if not self.by_epoch:
                raise ValueError(f"'{self.path}' counts iterations: it has no axis 'epoch', but 'iter' and 'time'")
            return np.array([record.position for record in records])
        if axis == 'iter':
            return np.array([record.iteration for record in records])
        positions = np.array([0.0, *(record.position for record in self.train)])
        hours = np.cumsum(np.diff(positions) * [record.pace for record in self.train]) / 3600
        if not np.isfinite(hours).all():
            raise ValueError(f"'{self.path}' has lines of training without their 'time': it has no axis 'time'")
        return np.interp([record.position for record in records], positions, [0.0, *hours])


def log_files(path: str | PathLike) -> list[Path]:
    """The logs of a work dir, the oldest first; none if it is no work dir.

    Args:
        path (str | PathLike): The work dir, one of its timestamps' folders, or the log itself.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    for folders in ([path], [path / 'vis_data'], sorted(path.glob('*/vis_data'))):
        if files := [file for folder in folders if (file := _log_in(folder))]:
            return files
    return []


def _log_in(folder: Path) -> Path | None:
    """``scalars.json``, or its copy by the timestamp's name."""
    if (folder / 'scalars.json').is_file():
        return folder / 'scalars.json'
    copies = folder.glob('*.json') if folder.name == 'vis_data' else ()
    return next((file for file in sorted(copies) if STAMPED.fullmatch(file.name)), None)


def read_training_log(path: str | PathLike) -> TrainingLog:
    """Read a work dir and join the parts of a run that was resumed.

    What a later part repeats, and what was lost with the checkpoint that it went on from, is taken from the later part:
    of the earlier ones only what lies before its first line of training stays. A part that begins anew therefore
    replaces all.

    Args:
        path (str | PathLike): As in :func:`log_files`.

    Raises:
        ValueError: If there is no log, or none with a line of training, or one file holds several trainings.
    """
    path = Path(path)
    files = log_files(path)
    if not files:
        raise ValueError(
            f"work dir '{path}' has no training log: looked for {path / '<timestamp>' / 'vis_data' / 'scalars.json'}"
        )
    log, parts = TrainingLog(path, by_epoch=True), 0
    for file in files:
        part = _read_part(file)
        log.notes += part.notes
        if not part.train:
            log.notes.append(f"'{file}' has no line of training: left out")
            continue
        _join(log, part, file if parts else None)
        parts += 1
    if not parts:
        raise ValueError(f"work dir '{path}' has no line of training yet: looked into {', '.join(map(str, files))}")
    return log


def _join(log: TrainingLog, part: TrainingLog, file: Path | None) -> None:
    """Let a log go on with a later part; ``file`` is the part's, None for the first."""
    start = part.train[0].position - SLACK if part.by_epoch == log.by_epoch else -math.inf
    kept = [record for record in log.train if record.position < start]
    dropped = len(log.train) - len(kept)
    if file is not None:
        repeated = f', {dropped} lines of training before it are repeated or lost' if dropped else ''
        if kept:
            unit = 'epoch' if log.by_epoch else 'iteration'
            log.notes.append(f"'{file}' goes on at {unit} {part.train[0].position:.6g}{repeated}")
        else:
            log.notes.append(f"'{file}' begins anew: {dropped} older lines of training in '{log.path}' are left out")
    log.train = kept + part.train
    log.val = [record for record in log.val if record.position < start] + part.val
    log.by_epoch, log.batch_size = part.by_epoch, part.batch_size


def _read_part(file: Path) -> TrainingLog:
    """Read one file."""
    lines, notes = _read_lines(file)
    log = file.parent.parent / f'{file.parent.parent.name}.log'
    processes, first = _search(log, PROCESSES), _search(log, FIRST_LINE)
    config = _read_config(file.parent / 'config.py')
    loop = config.get('train_cfg', {})
    train = [line for line in lines if 'iter' in line]
    counts_iterations = 'max_iters' in loop or str(loop.get('type')).endswith('IterBasedTrainLoop')
    by_epoch = not counts_iterations and all('epoch' in line for line in train)
    batch = config.get('train_dataloader', {}).get('batch_size')
    batch = batch * int(processes[1]) if isinstance(batch, int) and processes else None
    part = TrainingLog(file, by_epoch, batch_size=batch, notes=notes)
    length, offset = 1.0, 0.0
    if by_epoch and train:
        length = float(first[2]) if first else _epoch_length(train)
        if first:  # not 0 where the batch size was changed between two parts
            offset = train[0]['iter'] - ((train[0]['epoch'] - 1) * length + float(first[1]))
    for line in lines:
        values = {re.sub('^(train|val)/', '', key): value for key, value in line.items()}
        if 'iter' in line:
            position = (line['iter'] - offset) / length
            if part.train and line['iter'] <= part.train[-1].iteration:
                raise ValueError(
                    f"'{file}' holds several trainings: its iterations go from {part.train[-1].iteration:.0f} back to "
                    f'{line["iter"]:.0f}, as when one process trains one model after another'
                )
            pace = values.get('time', math.nan) * length
            part.train.append(Record(position, line['iter'], pace, values))
        else:
            position = _validated_at(values.get('step'), part.train[-1:], by_epoch, length)
            part.val.append(Record(position, position * length + offset, math.nan, values))
    return part


def _read_lines(file: Path) -> tuple[list[dict[str, float]], list[str]]:
    """The numbers of every line; a line that is cut short is passed over and named."""
    texts = file.read_text(encoding='utf-8', errors='replace').splitlines()
    lines, faults = [], []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            content = json.loads(text)  # knows NaN and Infinity
        except ValueError:
            content = None
        if isinstance(content, dict):
            numbers = {key: float(value) for key, value in content.items() if _is_number(value)}
            lines.append(numbers)
        else:
            faults.append(number)
    if faults and not lines:
        raise ValueError(f"'{file}' is no log of scalars: line {faults[0]} should be a JSON object")
    notes = [
        f"'{file}': line {number} of {len(texts)} is cut short and left out"
        + (', as a killed run leaves its last one' if number == len(texts) else '')
        for number in faults
    ]
    return lines, notes


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _epoch_length(train: list[dict[str, float]]) -> float:
    """Iterations of an epoch, from the lines alone: the first lines of two epochs are a multiple of it apart.

    Of a single epoch it is the last iteration logged, which can be too few.
    """
    first: dict[float, float] = {}
    for line in train:
        first.setdefault(line['epoch'], line['iter'])
    lengths = [(first[b] - first[a]) / (b - a) for a, b in pairwise(sorted(first))]
    return median(lengths) if lengths else max(line['iter'] / line['epoch'] for line in train)


def _validated_at(step: float | None, before: list[Record], by_epoch: bool, length: float) -> float:
    """The position of a validation.

    ``step`` is the epoch, or the iteration with ``LoggerHook(log_metric_by_epoch=False)``; of a run by iteration
    whose logger counts epochs it is always 0, and the line of training before it must do.
    """
    if not before:
        return step or 0.0
    last = before[0].position
    if step is None:
        return last
    if not by_epoch:
        return max(step, last)
    epoch = math.ceil(last - SLACK)
    return epoch if step in (epoch, epoch * length) else last


def _search(file: Path, pattern: re.Pattern) -> re.Match | None:
    """The first line of a text in which a pattern is found, without reading on."""
    if not file.is_file():
        return None
    with file.open(encoding='utf-8', errors='replace') as lines:
        return next((match for line in lines if (match := pattern.search(line))), None)


def _read_config(file: Path) -> dict[str, dict[str, Any]]:
    """The plain values of a config's dicts: read, not executed, since it comes from whoever made the log."""
    try:
        tree = ast.parse(file.read_text(encoding='utf-8'))
    except (OSError, SyntaxError, ValueError):
        return {}
    return {
        node.targets[0].id: {
            word.arg: word.value.value for word in node.value.keywords if isinstance(word.value, ast.Constant)
        }
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call)
    }
