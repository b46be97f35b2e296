"""Fixtures that several tests share."""
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def repo() -> Path:
    """The checkout's top folder."""
    return REPO


@pytest.fixture(scope='session')
def bccd_root() -> Path:
    """The BCCD data set (364 blood-cell images, PASCAL VOC format) at ``data/bccd``."""
    root = REPO / 'data' / 'bccd'
    if not (root / 'ImageSets' / 'Main' / 'train.txt').is_file():
        pytest.skip('data/bccd is absent: docs/data.md says where to get BCCD and where to put it')
    return root
