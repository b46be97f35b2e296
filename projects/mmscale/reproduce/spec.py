"""A paper's tables as data: ``configs/<paper>/tables.yml``, read and checked.

A table states what the paper prints and how each row is built here. What the file may hold is written once, in the
dataclasses below: a field of :class:`Table` or :class:`Row` is a key of the file. Every mistake is one sentence that
names file, table and row. Reading needs neither torch nor MMEngine; whether an override fits its config is checked by
:func:`mmscale.reproduce.config.row_config`, before anything is counted or trained.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mmscale.paths import config_root

__all__ = [
    'COSTS',
    'Counting',
    'Paper',
    'Row',
    'SpecError',
    'Speed',
    'Table',
    'as_printed',
    'find',
    'load_paper',
    'load_papers',
    'papers_of',
]

# Columns of cost that every table may have: M parameters and G operations, whole or over the baseline row's.
COSTS = ('params', 'flops', 'params_delta', 'flops_delta')
TASKS = ('detection', 'instance', 'panoptic', 'semantic')
MODES = ('tensor', 'predict', 'backbone-neck')  # those of mmscale.analysis.benchmark, which needs torch
CONVENTIONS = {'macs': 'multiply-adds', '2xmacs': 'two per multiply-add'}
NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]*')


class SpecError(ValueError):
    """A mistake in a tables.yml; the sentence names file, table and row."""


@dataclass(frozen=True)
class Counting:
    """How a table's operations are counted.

    Attributes:
        flops (str): ``'macs'`` (a multiply-add is one) or ``'2xmacs'``.
        input_size (tuple[int, int]): Height and width of the image.
        tolerance_params (float): Percent of difference to the paper's parameters that needs no marker.
        tolerance_flops (float): The same of its operations.
    """

    flops: str
    input_size: tuple[int, int]
    tolerance_params: float = 1.0
    tolerance_flops: float = 2.0

    def scaled(self, macs: float) -> float:
        """Multiply-adds in this convention."""
        return macs if self.flops == 'macs' else 2 * macs


@dataclass(frozen=True)
class Speed:
    """How a table's frames per second are measured.

    Attributes:
        column (str): The column with the paper's.
        paper (str): What the paper measured them on.
        mode (str): What one run is, in the words of :func:`mmscale.analysis.benchmark`: ``'tensor'``, ``'predict'`` or
            ``'backbone-neck'``.
    """

    column: str
    paper: str
    mode: str = 'tensor'


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name (str): Unique in the table; names the folder of its runs.
        label (str): What is printed.
        config (str | None): The config's file, or ``'mmdet::...'``. None where the row cannot run.
        dataset (str | None): A data layer in the place of the config's own, before the overrides.
        set (dict[str, Any]): Overrides of the config by dotted key.
        count_set (dict[str, Any]): Overrides for counting the cost alone, on top of ``set``: where the paper's own
            count was made with, for instance, other classes than the data has.
        count_only (tuple[str, ...]): Kinds of operators, in the words of :func:`mmscale.analysis.complexity`, that
            alone are counted: where the paper's own count left out the others. Empty for all.
        paper (dict[str, float]): The paper's figures by column.
        paper_baseline (dict[str, float]): The baseline that the paper compares this row with, where it is another
            figure than the baseline row's.
        baseline (str | None): The row that this one is compared with; None for a baseline.
        quoted (bool): Whether the paper only quotes it and there is no code for it here.
        waits_for (str | None): What is missing here before the row can run.
        note (str | None): What a reader should know, printed below the table.
    """

    name: str
    label: str
    config: str | None = None
    dataset: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    count_set: dict[str, Any] = field(default_factory=dict)
    count_only: tuple[str, ...] = ()
    paper: dict[str, float] = field(default_factory=dict)
    paper_baseline: dict[str, float] = field(default_factory=dict)
    baseline: str | None = None
    quoted: bool = False
    waits_for: str | None = None
    note: str | None = None

    @property
    def runnable(self) -> bool:
        """Whether there is something to count and to train."""
        return not self.quoted and self.waits_for is None


@dataclass(frozen=True)
class Table:
    """One table or figure of a paper.

    Attributes:
        paper (str): The paper's folder below ``configs/``.
        key (str): The table's key in the file, for instance ``'table4'``.
        title (str): What it is about.
        source (str): Where it stands in the paper.
        recipe_paper (str): What the paper states of its recipe.
        recipe_ours (str): What ours is.
        task (str): ``'detection'``, ``'instance'``, ``'panoptic'`` or ``'semantic'``.
        metrics (dict[str, str]): Column to the name of the evaluator's metric; the first is the main one.
        scale (dict[str, float]): Column to the factor that brings the evaluator's metric to the paper's unit.
        lower_is_better (tuple[str, ...]): Columns where a smaller figure is the better one.
        unmeasured (dict[str, str]): Columns of the paper that no command here measures, with the reason.
        evaluators (tuple[dict, ...]): Metrics that are added to the test set's evaluator.
        counting (Counting | None): How operations are counted; None for a table without cost.
        rows (tuple[Row, ...]): The lines, in the paper's order.
        file (Path): Where it was read.
        speed (Speed | None): How frames per second are measured; None for a table without them.
    """

    paper: str
    key: str
    title: str
    source: str
    recipe_paper: str
    recipe_ours: str
    task: str
    metrics: dict[str, str]
    scale: dict[str, float]
    lower_is_better: tuple[str, ...]
    unmeasured: dict[str, str]
    evaluators: tuple[dict, ...]
    counting: Counting | None
    rows: tuple[Row, ...]
    file: Path
    speed: Speed | None = None

    @property
    def name(self) -> str:
        """Paper and key, as on the command line: ``'fine/table4'``."""
        return f'{self.paper}/{self.key}'

    @property
    def main_metric(self) -> str:
        """The column that the report ranks and plots by."""
        return next(iter(self.metrics))

    def row(self, name: str) -> Row:
        """The row of a name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise ValueError(no_such(f"table '{self.name}' has no row", name, [row.name for row in self.rows]))

    def select(self, names: Iterable[str] | None = None) -> list[Row]:
        """Rows that can run, in the table's order.

        Args:
            names (Iterable[str], optional): The rows that are wanted. Defaults to None: all that can run.

        Raises:
            ValueError: If a name is unknown or its row cannot run.
        """
        if names is None:
            return [row for row in self.rows if row.runnable]
        wanted = [self.row(name) for name in dict.fromkeys(names)]
        for row in wanted:
            if row.quoted:
                raise ValueError(
                    f"row '{row.name}' of {self.name} is only quoted by the paper: there is no code for it"
                )
            if row.waits_for:
                raise ValueError(f"row '{row.name}' of {self.name} cannot run yet: it waits for {row.waits_for}")
        return [row for row in self.rows if row in wanted]

    def columns_of_cost(self) -> list[str]:
        """The columns of cost that any row states."""
        return [cost for cost in COSTS if any(cost in row.paper for row in self.rows)]


@dataclass(frozen=True)
class Paper:
    """A paper and its tables.

    Attributes:
        name (str): Its folder below ``configs/``.
        title (str): Its title.
        reference (str): Authors and place.
        tables (dict[str, Table]): By key.
    """

    name: str
    title: str
    reference: str
    tables: dict[str, Table]


def load_papers(root: Path | None = None) -> dict[str, Paper]:
    """Read every paper's tables.

    Args:
        root (Path, optional): The folder with one folder per paper. Defaults to None: the project's ``configs``.

    Returns:
        dict[str, Paper]: By name, in the order of their names.
    """
    root = config_root() if root is None else Path(root)
    return {file.parent.name: load_paper(file) for file in sorted(root.glob('*/tables.yml'))}


def papers_of(target: str | None, root: Path | None = None) -> list[Paper]:
    """The papers that a command was asked for: one, or all of them.

    Raises:
        ValueError: If there is no such paper.
    """
    root = config_root() if root is None else Path(root)
    if target is None:
        return list(load_papers(root).values())
    file = root / target / 'tables.yml'
    if not NAME.fullmatch(target) or not file.is_file():
        raise ValueError(
            no_such('there is no paper', target, [f.parent.name for f in sorted(root.glob('*/tables.yml'))])
        )
    return [load_paper(file)]


def find(target: str, root: Path | None = None) -> list[Table]:
    """Tables by name.

    Args:
        target (str): ``'fine'`` for all tables of a paper, ``'fine/table4'`` for one, or ``'fine/table1'`` for one that
            stands in the file in parts, ``table1-classic`` and ``table1-realtime``.
        root (Path, optional): As :func:`load_papers`.

    Raises:
        ValueError: If there is no such paper or table; it names what there is.
    """
    name, _, key = target.partition('/')
    (paper,) = papers_of(name, root)
    if not key:
        return list(paper.tables.values())
    if key in paper.tables:
        return [paper.tables[key]]
    if parts := [table for name, table in paper.tables.items() if name.startswith(f'{key}-')]:
        return parts
    raise ValueError(no_such(f"paper '{name}' has no table", key, paper.tables))


def load_paper(file: str | Path) -> Paper:
    """Read and check one ``tables.yml``.

    Args:
        file (str | Path): The file; its folder's name is the paper's.

    Raises:
        SpecError: If the file is not what the dataclasses of this module describe.
        FileNotFoundError: If there is no such file.
    """
    return _load_paper(Path(file).resolve())


@cache
def _load_paper(file: Path) -> Paper:
    from .spec_reader import SpecReader

    return SpecReader(file).paper()


def as_printed(value: float) -> str:
    """A paper's figure: one decimal, or as many as it has.

    Example:
        >>> as_printed(39.0), as_printed(0.525), as_printed(23833.0)
        ('39.0', '0.525', '23833')
    """
    if value >= 1000 and value == int(value):
        return f'{value:.0f}'
    return f'{value:.1f}' if value == round(value, 1) else f'{value:g}'


def no_such(what: str, name: str, names: Iterable[str]) -> str:
    """The sentence for a name that does not exist: the nearest one that does, or all of them."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1)
    return f"{what} '{name}'" + (f", did you mean '{near[0]}'?" if near else f'; there is {", ".join(names) or "none"}')
