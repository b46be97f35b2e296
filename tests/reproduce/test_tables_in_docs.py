"""The pages of docs/tables have the tables, rows and notes that the tables' files have now."""

import re
from pathlib import Path

import pytest

from mmscale.reproduce.spec import load_papers

PAGES = Path(__file__).parents[2] / 'docs' / 'tables'
PAPERS = load_papers()


def sections(text) -> dict[str, str]:
    """What stands below every heading, by the table's name."""
    parts = re.split(r'^## (\S+): .*$', text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize('paper', sorted(page.stem for page in PAGES.glob('*.md')))
def test_a_page_has_what_the_tables_file_has(paper):
    page = sections((PAGES / f'{paper}.md').read_text())
    tables = {table.name: table for table in PAPERS[paper].tables.values()}
    assert set(page) <= set(tables)
    for name, text in page.items():
        labels = re.findall(r'^\| (.+?) +\|', text, flags=re.M)
        rows = [row for row in tables[name].rows if row.label in labels]
        assert [row.label for row in rows] == [label for label in labels if label != 'row'], name
        for row in rows:
            assert row.note is None or f'- {row.label}: {row.note}\n' in text, f'{name}: the note of {row.label!r}'
