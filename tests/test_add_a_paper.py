"""docs/add_a_paper.md, followed to the letter in a copy of the repository.

A fence below a line with nothing but a file's name in backticks is that file; a ``diff`` below 'In `file`:' goes into
it; ``bash`` is run; a fence without a language is what the commands before it print.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmscale.reproduce.spec_reader import ROW_KEYS, TABLE_KEYS

DOC = Path('docs') / 'add_a_paper.md'
COPIED = ('configs', 'projects', 'tests', 'tools', 'pyproject.toml')
NOT_COPIED = ('__pycache__', '.mim', '*.egg-info', '.pytest_cache')
FENCE = re.compile(r'(?:^(In )?`([\w./-]+)`:\n\n)?^```(\w*)\n(.*?)^```$', re.M | re.S)
NUMBER = re.compile(r'[+-]?\d+(?:\.\d+)?')


def steps(text):
    """The page as (kind, name, content): 'file' and 'diff' with the file's name, 'run', 'output', or 'shown'."""
    for match in FENCE.finditer(text):
        place, name, language, content = match.groups()
        if name:
            yield 'diff' if place else 'file', name, content
        elif language == 'bash':
            yield 'run', '', content
        else:
            yield 'shown' if language else 'output', '', content


def apply(diff, file):
    """Put the lines with a plus below the line before them, as a reader would."""
    text = file.read_text()
    lines = diff.splitlines()
    (context,) = (line[1:] for line in lines if line.startswith(' '))
    added = [line[1:] for line in lines if line.startswith('+')]
    assert len(added) == len(lines) - 1 and lines[0] == ' ' + context
    assert text.splitlines().count(context) == 1, f'{file.name} has no line "{context}" of its own'
    file.write_text(text.replace(f'{context}\n', '\n'.join([context, *added]) + '\n'))


def comparable(text, exact):
    """Without the widths of a table's columns; where numbers depend on the machine, without those and dates too."""
    lines = [re.sub(r' *\| *', ' | ', line).strip() for line in text.strip().splitlines()]
    lines = [re.sub(r'\|[-:| ]+\|', '|-|', line) for line in lines]
    lines = [re.sub(r'[+-](0\.0+)\b', r'\1', line) for line in lines]  # the sign of nothing is rounding's
    return [line if exact else NUMBER.sub('#', line) for line in lines]


@pytest.fixture(scope='module')
def checkout(repo, tmp_path_factory):
    """A copy of what a paper is added to, without data and results."""
    top = tmp_path_factory.mktemp('checkout')
    for name in COPIED:
        source = repo / name
        if source.is_dir():
            shutil.copytree(source, top / name, ignore=shutil.ignore_patterns(*NOT_COPIED))
        else:
            shutil.copy(source, top)
    return top


def run(command, folder):
    """Run a line of the page with this Python and the copy's package."""
    env = {**os.environ, 'PYTHONPATH': str(folder / 'projects'), 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    env['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), env['PATH']])
    done = subprocess.run(['bash', '-euc', command], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout


def test_the_page_leads_to_a_paper(repo, checkout):
    printed, checked, commands = '', 0, []
    for kind, name, content in steps((repo / DOC).read_text()):
        if kind == 'file':
            file = checkout / name
            assert not file.exists(), f'{name} is written twice'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        elif kind == 'diff':
            apply(content, checkout / name)
        elif kind == 'run':
            printed = run(content, checkout)
            commands.append(content)
        elif kind == 'output':
            expected = comparable(content, exact='report' not in commands[-1])
            found = comparable(printed, exact='report' not in commands[-1])
            assert '\n'.join(expected) in '\n'.join(found), f'{commands[-1]} printed\n{printed}'
            checked += 1
    assert checked == 5 and len(commands) == 6
    folder = checkout / 'work_dirs' / 'reproduce' / 'se_net' / 'neck' / 'own-1e'
    assert {file.parent.parent.name for file in folder.glob('*/seed0/run.json')} == {'fpn', 'r4'}
    assert {'report.md', 'runs.csv', 'rows.csv', 'bars.png'} <= {path.name for path in folder.iterdir()}
    lint = [sys.executable, '-m', 'ruff', 'check', 'projects/mmscale/se_net', 'tests/se_net', 'configs/se_net']
    done = subprocess.run(lint, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_project_of_its_own(repo, tmp_path, monkeypatch):
    for kind, name, content in steps((repo / DOC).read_text()):
        if kind == 'file' and name.startswith('my_project/'):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    cfg = Config.fromfile(tmp_path / 'my_project' / 'config.py')
    init_default_scope(cfg.default_scope)
    assert type(MODELS.build(cfg.model).neck).__module__ == 'my_project.neck'


def test_the_page_knows_every_key(repo):
    text = (repo / DOC).read_text().split('## The keys of tables.yml')[1]
    tables = text.split('\n| row | |')
    for keys, part in zip((TABLE_KEYS, ROW_KEYS), tables, strict=True):
        cells = ' '.join(line.split('|')[1] for line in part.splitlines() if line.startswith('| `'))
        assert sorted(re.findall(r'`(\w+)`', cells)) == sorted([*keys['required'], *keys['optional']])
