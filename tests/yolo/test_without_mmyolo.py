"""Without MMYOLO, which is optional: what stands alone works, what builds on it says so in one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmscale
from mmscale.registry import WITH_MMYOLO

SENTENCE = 'mmyolo, which the YOLOs and CSF-Net stand on, is not installed; it is optional and under the GPL: pip'
ALONE = ('CSwitch', 'DFuse', 'CReToNeXt', 'FINE', 'FINEFPN', 'RTDETR')
PROGRAM = f"""
import importlib.machinery, importlib.util, json, sys

class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition('.')[0] == 'mmyolo' else super().find_spec(name, path, target)

sys.meta_path = [Hidden if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
assert importlib.util.find_spec('mmyolo') is None

def attempt(do):
    try:
        return str(do())
    except Exception as error:
        return [type(error).__name__, str(error)]

import mmscale, mmscale.registry
from mmscale.registry import MODELS, WITH_MMYOLO
from mmdet.registry import MODELS as MMDET_MODELS
import mmscale.yolo, mmscale.csf_net, mmscale.fine
import torch
from mmscale.yolo.attention import A2C2f, PSA
from mmscale.yolo.blocks import C2fCIB

x = torch.rand(1, 64, 4, 4)
names = [name for group in WITH_MMYOLO.values() for name in group]
print(json.dumps(dict(
    has=mmscale.registry.HAS_MMYOLO,
    found={{name: MODELS.get('mmscale.' + name).__module__ for name in {ALONE}}},
    blocks=[list(block(x).shape) for block in (A2C2f(64, 64, areas=2), C2fCIB(64, 64), PSA(64))],
    built=[attempt(lambda: type(MODELS.build(dict(cfg, type='mmscale.' + cfg['type']))).__name__) for cfg in (
        dict(type='CSwitch', in_channels=8, quotas=[4, 4]),
        dict(type='DFuse', in_channels=[8, 8]),
        dict(type='CReToNeXt', in_channels=8, out_channels=8),
    )],
    stand_ins={{cls.__name__: cls.__doc__ for cls in (MODELS.get('mmscale.' + name) for name in names)}},
    refused={{name: attempt(lambda: MODELS.build(dict(type='mmscale.' + name))) for name in names}},
    refused_with_options=attempt(lambda: MMDET_MODELS.build(dict(type='mmscale.YOLOv10Head', head_module=dict()))),
    modules={{module: attempt(lambda: __import__(module)) for module in WITH_MMYOLO}},
    imported='mmyolo' in sys.modules,
)))
"""


@pytest.fixture(scope='module')
def report():
    package = Path(mmscale.__file__).parents[1]
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get('PYTHONPATH')])])
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', PROGRAM],
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def names():
    return [name for group in WITH_MMYOLO.values() for name in group]


def test_it_imports_without_mmyolo(report):
    assert report['has'] is False and report['imported'] is False


def test_what_stands_alone_is_found_and_built(report):
    assert list(report['found']) == list(ALONE)
    assert not any(module == 'mmscale.registry' for module in report['found'].values())
    assert report['built'] == ['CSwitch', 'DFuse', 'CReToNeXt']
    assert report['blocks'] == [[1, 64, 4, 4]] * 3


def test_what_builds_on_mmyolo_says_so_in_one_sentence(report):
    assert set(report['refused']) == set(names()) and len(names()) > 10
    for name, (kind, message) in report['refused'].items():
        assert kind == 'ImportError' and message.startswith(SENTENCE) and '\n' not in message, name
    assert report['refused_with_options'] == report['refused']['YOLOv10Head']


def test_it_keeps_its_name_and_says_what_it_needs(report):
    expected = {name: f'{name} needs MMYOLO, which is not installed.' for name in names()}
    assert report['stand_ins'] == expected


def test_its_modules_say_the_same(report):
    assert set(report['modules']) == set(WITH_MMYOLO)
    for kind, message in report['modules'].values():
        assert kind == 'ImportError' and message.startswith(SENTENCE)


def test_the_list_names_every_component_that_needs_mmyolo():
    """With MMYOLO: each module registers what is listed, and nothing else of the package stands on it."""
    pytest.importorskip('mmyolo')
    from mmscale.registry import MODELS

    MODELS.import_from_location()
    registered = {}
    for name, cls in MODELS.module_dict.items():
        if any(base.__module__.partition('.')[0] == 'mmyolo' for base in cls.__mro__) or cls.__module__ in WITH_MMYOLO:
            registered.setdefault(cls.__module__, set()).add(name)
    assert registered == {module: set(listed) for module, listed in WITH_MMYOLO.items()}
