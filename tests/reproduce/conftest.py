"""A paper with a table of tiny detectors, trained in seconds on images that the test draws."""

import json
import textwrap
from functools import partial
from pathlib import Path

import pytest

from mmscale.reproduce import runs, spec
from tests.engine.conftest import draw_images, fill_config, own_process_state  # noqa: F401 (used by test_train)

TABLES = """
    title: A paper of tiny detectors
    reference: nobody, nowhere
    tables:
      table1:
        title: Plain and finer
        source: Table 1
        recipe: {paper: unknown, ours: two epochs}
        task: detection
        base: tiny.py
        metrics: {AP: coco/bbox_mAP, AP50: coco/bbox_mAP_50}
        scale: {AP: 100, AP50: 100}
        rows:
          - {name: plain, label: Plain}
          - {name: wide, label: Wide, baseline: plain, set: {model.bbox_head.feat_channels: 32}, paper: {AP: 40.0}}
          - {name: later, label: Later, waits_for: an engineer}
      table2:
        title: By iteration
        source: Table 2
        recipe: {paper: unknown, ours: unknown}
        task: detection
        metrics: {AP: coco/bbox_mAP}
        rows:
          - {name: steps, label: Steps, config: steps.py}
"""


STEPS = """
    train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=40, val_interval=4)
    train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
    log_processor = dict(by_epoch=False)
    _base_ = './tiny.py'
"""


@pytest.fixture(scope='session')
def images(tmp_path_factory) -> Path:
    """Four drawn images with their annotations."""
    root = tmp_path_factory.mktemp('shapes') / 'data'
    draw_images(root, number=4)
    return root


@pytest.fixture
def papers(tmp_path, images) -> Path:
    """The folder of papers, with one: 'tiny'; the rows of its table1 train two epochs of two iterations."""
    folder = tmp_path / 'papers' / 'tiny'
    folder.mkdir(parents=True)
    (folder / 'tables.yml').write_text(textwrap.dedent(TABLES))
    (folder / 'tiny.py').write_text(fill_config(images, epochs=2))
    (folder / 'steps.py').write_text(textwrap.dedent(STEPS))
    return folder.parent


@pytest.fixture
def table(papers) -> spec.Table:
    """The paper's table."""
    return spec.load_paper(papers / 'tiny' / 'tables.yml').tables['table1']


@pytest.fixture
def write_run(tmp_path, table):
    """A function that leaves the files of a finished run: ``write_run('plain', 0, config_hash='a')``."""

    def write(row: str, seed: int, experiment: str = 'exp', **content) -> runs.Run:
        run = runs.Run(table.paper, table.key, experiment, row, seed, tmp_path / 'work')
        run.folder.mkdir(parents=True)
        content = {'row': row, 'seed': seed, 'config_hash': 'a', 'metrics': {}, **content}
        (run.folder / 'run.json').write_text(json.dumps(content))
        return run

    return write


@pytest.fixture
def command(papers, tmp_path, monkeypatch):
    """``reproduce.py train tiny/table1`` with more words, on a CPU: a function that returns the exit code."""
    from mmscale.reproduce import cli, train

    monkeypatch.setattr(train, 'find', partial(spec.find, root=papers))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')

    def run(*words: str) -> int:
        try:
            cli.main(['train', 'tiny/table1', '--work-root', str(tmp_path / 'work'), *words])
        except SystemExit as stop:
            return stop.code or 0
        return 0

    return run
