"""For all tests and doctests: what to collect, and nothing of a run left for the next file."""

from importlib.util import find_spec
from pathlib import Path

import pytest

WITH_MMYOLO = (
    'csf_net/backbone.py',
    'csf_net/neck.py',
    'deploy/yolo.py',
    'fine/yolo_necks.py',
    'yolo/api.py',
    'yolo/backbones.py',
    'yolo/heads.py',
    'yolo/necks.py',
)

collect_ignore = []
if find_spec('mmyolo') is None:
    collect_ignore += [str(Path('projects', 'mmscale', file)) for file in WITH_MMYOLO]


@pytest.fixture(autouse=True, scope='module')
def forget_runs():
    """Files pass in any order, alone and beside others: MMEngine keeps the scope and the log of a run in globals."""
    yield
    from tests.trainings import forget_runs

    forget_runs()
