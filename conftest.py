"""What cannot be imported for its doctests where an optional package is absent."""

from importlib.util import find_spec
from pathlib import Path

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
