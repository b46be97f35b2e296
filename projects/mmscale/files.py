"""Results on disk and in the terminal."""
import json
import os
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from terminaltables import GithubFlavoredMarkdownTable

__all__ = ['markdown_table', 'write_json', 'write_text']


def write_json(path: str | PathLike, content: Any) -> None:
    """Writes a JSON file whole or not at all, and makes its folder.

    Args:
        path (str | PathLike): The file; one that exists is replaced.
        content (Any): What ``json`` can write.
    """
    write_text(path, json.dumps(content, indent=2) + '\n')


def write_text(path: str | PathLike, text: str) -> None:
    """Writes a text file whole or not at all, and makes its folder.

    Args:
        path (str | PathLike): The file; one that exists is replaced.
        text (str): All of its content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + '.')
    try:
        with os.fdopen(handle, 'w', encoding='utf-8') as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def markdown_table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table that also reads well in a terminal.

    Args:
        rows (Sequence[Sequence[str]]): The heading, then the rows.
        right (Sequence[int]): Columns to align at the right. Defaults to ().

    Example:
        >>> print(markdown_table([['config', 'ms'], ['a', '1.5']], right=[1]))
        | config |  ms |
        |--------|----:|
        | a      | 1.5 |
    """
    table = GithubFlavoredMarkdownTable([list(row) for row in rows])
    table.justify_columns = dict.fromkeys(right, 'right')
    return table.table
