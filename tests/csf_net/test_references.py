"""What the docstrings of CSF-Net refer to is there, under that name."""

import importlib
import pkgutil
import pydoc
import re
from pathlib import Path

import pytest

import mmscale.csf_net
from mmscale.registry import HAS_MMYOLO

from ..yolo.small import ABSENT

MODULES = [module.name for module in pkgutil.iter_modules(mmscale.csf_net.__path__)]


@pytest.mark.skipif(not HAS_MMYOLO, reason=ABSENT)
@pytest.mark.parametrize('name', ['__init__', *MODULES])
def test_references(name):
    package = Path(mmscale.csf_net.__file__).parent
    text = (package / f'{name}.py').read_text(encoding='utf-8')
    names = re.findall(r':(?:class|func|mod):`~?([\w.]+)`', text)
    assert all(names)
    module = importlib.import_module('mmscale.csf_net' if name == '__init__' else f'mmscale.csf_net.{name}')
    for reference in names:
        if reference.startswith('.'):
            importlib.import_module(reference, 'mmscale.csf_net')
        elif reference.startswith('mmscale.'):
            assert pydoc.locate(reference) is not None, reference
        else:
            assert hasattr(module, reference), reference
