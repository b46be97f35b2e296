"""Results as a table for people and as numbers for loggers."""
import math

from terminaltables import AsciiTable

from .protocols import Protocol
from .records import Entry, Result

__all__ = ['to_metrics', 'to_table']


def to_table(protocol: Protocol, result: Result, classwise: bool = False) -> str:
    """A table with one line per metric; a line without ground truth says so instead of a number.

    Args:
        protocol (Protocol): The protocol.
        result (Result): What it found.
        classwise (bool): Whether to add a line per class. Defaults to False.
    """
    rows = [['metric', 'value', 'GT boxes', 'measured at']]
    for entry in [*result.entries, *(result.classwise if classwise else [])]:
        rows.append([entry.name, _shown(entry), str(entry.num_truths), entry.meaning])
    return f'{protocol.name} ({protocol.source})\n{AsciiTable(rows).table}'


def to_metrics(protocol: Protocol, result: Result, classwise: bool = False) -> dict[str, float]:
    """The metrics by full name, such as 'coco/AP'; NaN without ground truth.

    NaN is our choice: the set of names stays the same over a training, so that ``save_best`` finds its key, and NaN is
    never better than a number, while COCO's -1 would enter means and plots as if it were measured.
    """
    entries = [*result.entries, *(result.classwise if classwise else [])]
    return {f'{protocol.name}/{entry.name}': entry.value for entry in entries}


def _shown(entry: Entry) -> str:
    return 'no GT' if math.isnan(entry.value) else f'{entry.value:.3f}'
