"""MMScale as somebody else has it: a wheel in another environment, used from a project of their own."""

import json
import os
import shutil
import subprocess
import sys

import pytest


@pytest.fixture(scope='session')
def installed(repo, tmp_path_factory):
    """A folder that holds what ``pip install .`` puts into an environment that has the stack."""
    source = tmp_path_factory.mktemp(
        'source'
    )  # a copy: building in the checkout would leave, and reuse, its build/ folder
    for name in ('projects', 'configs', 'tools', 'requirements'):
        shutil.copytree(repo / name, source / name, ignore=shutil.ignore_patterns('__pycache__', '.mim', '*.egg-info'))
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'MANIFEST.in', 'requirements.txt'):
        shutil.copy(repo / name, source)
    # by way of the source distribution, as from a package index
    build = 'from setuptools import build_meta; build_meta.build_sdist("dist")'
    done = subprocess.run([sys.executable, '-c', build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = (source / 'dist').glob('mmscale-*.tar.gz')
    site = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation', '--no-index']
    done = subprocess.run([*command, '--target', str(site), str(archive)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site


def run(installed, folder, code):
    """Run Python code in ``folder`` with the installed package before every other."""
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=folder,
        env={**env, 'PYTHONPATH': str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_what_users_need(installed):
    mim = installed / 'mmscale' / '.mim'
    assert (mim / 'tools' / 'train.py').is_file()
    assert (mim / 'configs' / 'fine' / 'fcos_r50_fpn-fine_1x_coco.py').is_file()
    assert not list(installed.rglob('tests'))


def test_a_strangers_config_builds_finefpn(installed, tmp_path):
    (tmp_path / 'config.py').write_text("""
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmscale'])
model = dict(neck=dict(type='mmscale.FINEFPN'))
""")
    out = run(
        installed,
        tmp_path,
        """
from mmengine.config import Config
from mmengine.registry import init_default_scope
cfg = Config.fromfile('config.py')
init_default_scope('mmdet')
from mmdet.registry import MODELS
model = MODELS.build(cfg.model)
import mmscale
print(mmscale.__file__, type(model.neck).__module__, sorted(model.neck.fine))
""",
    )
    file, module, levels = out.split(maxsplit=2)
    assert file.startswith(str(installed))
    assert module == 'mmscale.fine.fpn' and levels.strip() == "['1', '2']"


def test_a_strangers_config_inherits_ours(installed, tmp_path):
    (tmp_path / 'config.py').write_text("""
_base_ = 'mmscale::fine/retinanet_r50_fpn-fine_1x_coco.py'
model = dict(neck=dict(fine=dict(num_heads=8)))
""")
    out = run(
        installed,
        tmp_path,
        """
import mmscale
from mmengine.config import Config
print(Config.fromfile('config.py').model.neck)
""",
    )
    assert "'type': 'mmscale.FINEFPN'" in out and "'num_heads': 8" in out


def test_every_config_builds_from_the_installed_wheel(installed, tmp_path, repo):
    out = run(
        installed,
        tmp_path,
        """
import json, pathlib, mmscale
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
configs = pathlib.Path(mmscale.__file__).parent / '.mim' / 'configs'
built = {}
for path in sorted(configs.rglob('*.py')):
    if '_base_' in path.parts:
        continue
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert cfg.train_dataloader.dataset and cfg.val_evaluator and cfg.test_dataloader, path
    built[str(path.relative_to(configs))] = sum(p.numel() for p in model.parameters())
print(json.dumps(built))
""",
    )
    built = json.loads(out.splitlines()[-1])
    configs = repo / 'configs'
    expected = {str(p.relative_to(configs)) for p in configs.rglob('*.py') if '_base_' not in p.parts}
    assert set(built) == expected
    assert all(count > 1e5 for count in built.values())
