"""A broken stack is described, and mended by the command that is printed. The stacks here are made of stub packages."""
import os
import subprocess
import sys

import pytest

from mmscale import stack

STUBS = {  # module file -> its text
    'pkg_resources/__init__.py': '',
    'numpy/__init__.py': '',
    'cv2/__init__.py': '',
    'pycocotools/__init__.py': '',
    'pycocotools/mask.py': '',
    'torch/__init__.py': ('class cuda:\n    is_available = staticmethod(lambda: False)\n'
                          'class version:\n    cuda = "13.0"\n'),
    'mmengine/__init__.py': 'import torch, cv2, numpy\n',
    'mmengine/runner.py': '',
    'mmcv/__init__.py': 'import mmengine\n',
    'mmcv/_ext.py': 'get_compiling_cuda_version = lambda: "not available"\n',
    'mmdet/__init__.py': 'import mmcv, mmengine\n',
}
VERSIONS = {'setuptools': '80.1', 'numpy': '2.1', 'opencv-python': '5.0', 'pycocotools': '2.0', 'torch': '2.13.0+cpu',
            'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0'}
GONE = 'raise ModuleNotFoundError("No module named {0!r}", name="{0}")'


@pytest.fixture
def run(tmp_path, repo):
    """Run Python on a stub stack: ``run(arguments, files=..., versions=...)`` with what differs from a sound one."""

    def run(arguments, files=(), versions=()):
        site = tmp_path / 'site'
        for name, text in {**STUBS, **dict(files)}.items():
            if text is not None:
                (site / name).parent.mkdir(parents=True, exist_ok=True)
                (site / name).write_text(text)
        for name, version in {**VERSIONS, **dict(versions)}.items():
            if version is not None:
                info = site / f'{name.replace("-", "_")}-{version}.dist-info'
                info.mkdir(parents=True, exist_ok=True)
                (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(site), str(repo / 'projects')])}
        return subprocess.run([sys.executable, '-S', *arguments], env=env, capture_output=True, text=True, timeout=60,
                              cwd=tmp_path)

    return run


SYMBOL = 'raise ImportError("/x/mmcv/_ext.so: undefined symbol: _ZN3c105ErrorC2")\n'
CUDART = 'raise ImportError("libcudart.so.12: cannot open shared object file: No such file or directory")\n'
NO_GL = 'raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")\n'
REFUSES = 'raise AssertionError("MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.")\n'
HAS_GPU = STUBS['torch/__init__.py'].replace('False', 'True')
FAULTS = {
    'no mmcv': (dict.fromkeys(('mmcv/__init__.py', 'mmcv/_ext.py')), {'mmcv': None}, 'mmcv is not installed',
                '--no-build-isolation --no-binary mmcv'),
    'no operators': ({'mmcv/_ext.py': None}, {}, "without its compiled operators (No module named 'mmcv._ext')",
                     '--force-reinstall --no-deps --no-cache-dir mmcv==2.1.0'),
    'mmcv-lite': ({'mmcv/_ext.py': None}, {'mmcv': None, 'mmcv-lite': '2.1.0'}, 'mmcv-lite is installed where',
                  'pip uninstall -y mmcv-lite && pip install "setuptools<81" wheel ninja psutil && pip install --no-b'),
    'other torch': ({'mmcv/_ext.py': SYMBOL}, {}, 'compiled against another torch than the installed one',
                    'mmcv==2.1.0'),
    'no cuda': ({'mmcv/_ext.py': CUDART}, {}, 'compiled for CUDA, which the installed torch does not bring',
                'mmcv==2.1.0'),
    'crash': ({'mmcv/_ext.py': 'import os\nos.abort()\n'}, {}, 'compiled against another torch', 'mmcv==2.1.0'),
    'mmdet refuses': ({'mmdet/__init__.py': REFUSES}, {'mmcv': '2.2.0'}, 'mmdet 3.3.0 refuses the installed mmcv',
                      'mmcv==2.1.0'),
    'no mmdet': ({'mmdet/__init__.py': None}, {'mmdet': None}, 'mmdet is not installed', 'pip install mmdet==3.3.0'),
    'no torch': ({'torch/__init__.py': None}, {'torch': None}, 'torch is not installed', 'pip install torch==2.13.0'),
    'setuptools': ({'pkg_resources/__init__.py': None}, {'setuptools': '82.0'},
                   'setuptools 82.0 no longer has pkg_resources', 'pip install "setuptools<81"'),
    'no libGL': ({'cv2/__init__.py': NO_GL}, {}, 'needs a desktop library that this machine lacks',
                 'opencv-python-headless'),
    'no addict': ({'mmengine/__init__.py': 'import addict_xyz\n'}, {}, 'needs the module addict_xyz',
                  'pip install addict_xyz'),
}


@pytest.mark.parametrize('name', FAULTS)
def test_fault_is_named_and_mended(run, name):
    files, versions, cause, mend = FAULTS[name]
    report = run(['-m', 'mmscale'], files, versions)
    assert report.returncode == 1, report.stderr
    assert cause in report.stdout and mend in report.stdout
    sentences = [line for line in report.stdout.splitlines() if '; mend it with: ' in line]
    assert len(sentences) == 1, 'one fault, not those that follow from it'
    if name == 'crash':
        return  # takes the interpreter down, so that only the report can say why
    failed = run(['-c', 'import mmscale'], files, versions)
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-2:] == [
        f'ImportError: {sentences[0]}', '(python -m mmscale shows the whole stack)']


def test_gpu_without_compiled_operators(run):
    report = run(['-m', 'mmscale'], {'torch/__init__.py': HAS_GPU})
    assert report.returncode == 1
    assert 'compiled without CUDA, but torch sees a GPU' in report.stdout and 'FORCE_CUDA=1' in report.stdout


def test_other_version_is_untested_not_refused(run):
    report = run(['-m', 'mmscale'], {'mmyolo/__init__.py': ''}, {'torch': '2.99.1', 'mmyolo': '0.6.0'})
    rows = {line.split()[0]: line.split() for line in report.stdout.partition('\n\n')[0].splitlines()}
    assert rows['torch'] == ['torch', '2.99.1', '2.13.0', 'untested']
    assert rows['mmengine'][-1] == rows['mmyolo'][-1] == 'ok'
    assert rows['mmsegmentation'][1:] == ['-', '1.2.2', 'optional,', 'absent']
    assert 'torch==2.13.0' not in report.stdout


def test_what_follows_from_a_fault_waits_for_it(run):
    report = run(['-m', 'mmscale'], {'torch/__init__.py': None}, {'torch': None})
    rows = {line.split()[0]: line for line in report.stdout.partition('\n\n')[0].splitlines()}
    assert rows['torch'].endswith('MISSING')
    assert all(rows[name].endswith('waits for torch') for name in ('mmengine', 'mmcv', 'mmdet'))


def test_real_stack_is_sound(repo):
    env = {**os.environ, 'PYTHONPATH': str(repo / 'projects')}
    report = subprocess.run([sys.executable, '-m', 'mmscale'], env=env, capture_output=True, text=True, timeout=120)
    assert report.returncode == 0, report.stdout + report.stderr
    assert report.stdout.splitlines()[-1] == 'Everything that MMScale needs works.'


@pytest.mark.parametrize('argv, orig_argv, expected', [
    (['-m'], ['python', '-m', 'mmscale'], True),
    (['-m'], ['python', '-W', 'ignore', '-m', 'mmscale', '-h'], True),
    (['-m'], ['python', '-mmmscale'], True),
    (['-m'], ['python', '-m', 'mmscale.engine.train'], False),
    (['-m'], ['python', '-m', 'other', '-m', 'mmscale'], False),
    (['train.py', '-m', 'mmscale'], ['python', 'train.py', '-m', 'mmscale'], False),
])
def test_reporting_is_recognised(monkeypatch, argv, orig_argv, expected):
    monkeypatch.setattr(sys, 'argv', argv)
    monkeypatch.setattr(sys, 'orig_argv', orig_argv)
    assert stack.reporting() is expected


@pytest.mark.parametrize('argv, orig_argv, expected', [
    (['-m', 'list'], ['python', '-m', 'mmscale.reproduce', 'list'], True),
    (['-m', 'show', 'fine'], ['python', '-mmmscale.reproduce', 'show', 'fine'], True),
    (['-m', 'train', 'fine'], ['python', '-m', 'mmscale.reproduce', 'train', 'fine'], False),
    (['{repo}/tools/reproduce.py', 'list'], [], True),
    (['{repo}/tools/reproduce.py', 'complexity', 'fine'], [], False),
    (['{repo}/elsewhere/reproduce.py', 'list'], [], False),
])
def test_reading_tables_is_recognised(monkeypatch, repo, argv, orig_argv, expected):
    monkeypatch.setattr(sys, 'argv', [argument.format(repo=repo) for argument in argv])
    monkeypatch.setattr(sys, 'orig_argv', orig_argv)
    assert stack.reading_tables() is expected


def test_fault_of_the_package_keeps_its_own_error(monkeypatch):
    monkeypatch.setattr(stack, 'examine', lambda: ([], []))
    stack.explain(ImportError('cannot import name'))  # returns, so that the original error is raised on
