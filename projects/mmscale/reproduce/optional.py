"""Rows that need an optional package which is not installed: they wait for it, and the other rows are done."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmscale import registry, stack
from mmscale.analysis.model import load_config

from .spec import Row, Table

__all__ = ['absent_package', 'describe_waiting', 'mark_waiting', 'read_config', 'require_some']

MMYOLO = 'MMYOLO, which is optional and not installed (pip install mmyolo==0.6.0)'
MMSEGMENTATION = 'MMSegmentation, which is optional and not installed ({})'


def mark_waiting(table: Table) -> Table:
    """Mark the rows whose config needs an absent package, as rows that wait for something in ``tables.yml`` are.

    Args:
        table (Table): As the file says.

    Returns:
        Table: The same with ``waits_for`` set; such a row keeps its ``config``, which tells it from the file's.
    """
    rows = [replace(row, waits_for=absent_package(row)) if row.runnable else row for row in table.rows]
    return replace(table, rows=tuple(rows))


def absent_package(row: Row) -> str | None:
    """What a row's config needs that is not installed, and how to get it; None if it can be built.

    Args:
        row (Row): One with a config.
    """
    segments = stack.optional_fault('mmsegmentation')
    if registry.HAS_MMYOLO and segments is None:
        return None
    try:
        cfg = read_config(row.config)
    except (FileNotFoundError, AssertionError):
        return None  # whoever builds it tells what is wrong
    except ModuleNotFoundError as error:
        if segments is not None and 'mmsegmentation' in str(error):
            return MMSEGMENTATION.format(segments.mend)
        return MMYOLO if not registry.HAS_MMYOLO and 'mmyolo' in str(error) else None
    return MMYOLO if not registry.HAS_MMYOLO and _names_mmyolo([cfg.to_dict(), row.set]) else None


def describe_waiting(table: Table) -> list[str]:
    """A sentence for every package that rows of a marked table wait for.

    Args:
        table (Table): What :func:`mark_waiting` returned.
    """
    waiting = [row for row in table.rows if row.waits_for and row.config]
    return [
        f'{table.name}: {", ".join(row.name for row in waiting if row.waits_for == reason)} wait'
        f'{"s" * (sum(row.waits_for == reason for row in waiting) == 1)} for {reason}'
        for reason in dict.fromkeys(row.waits_for for row in waiting)
    ]


def require_some(tables: list[Table]) -> None:
    """Refuse tables of which no row is left.

    Args:
        tables (list[Table]): What :func:`mark_waiting` returned.

    Raises:
        ValueError: If none of their rows can run, and some for the want of a package alone.
    """
    sentences = [sentence for table in tables for sentence in describe_waiting(table)]
    if sentences and not any(table.select() for table in tables):
        raise ValueError('; '.join(sentences))


def _names_mmyolo(node: Any) -> bool:
    """Whether a part of a config names a component of MMYOLO's, one of ours that builds on it, or its scope."""
    if isinstance(node, str):
        return node.startswith('mmyolo.')
    if isinstance(node, dict):
        ours = [name for names in registry.WITH_MMYOLO.values() for name in names]
        kind = node.get('type')
        return (
            node.get('default_scope') == 'mmyolo'
            or (isinstance(kind, str) and kind.removeprefix('mmscale.') in ours)
            or any(_names_mmyolo(value) for value in node.values())
        )
    return isinstance(node, (list, tuple)) and any(_names_mmyolo(item) for item in node)


@cache
def read_config(config: str) -> Config:
    """A row's config as its file says, read once; whoever changes it copies it first.

    Args:
        config (str): A file, or ``'mmdet::...'``.
    """
    return load_config(config if '::' in config else Path(config))
