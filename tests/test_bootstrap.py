"""The set-up's own logic, with a stand-in for the environment's Python: a real compilation takes ten minutes."""

import importlib.util
import stat

import pytest

from mmscale import stack

FAKE_PYTHON = """#!/bin/sh
# pip wheel -v ... -w FOLDER: prints what ninja prints and writes a wheel, or fails
for last; do :; done
echo 'Building wheels for collected packages: mmcv'
for i in $(seq 1 20); do echo "  [$i/20] c++ -c mmcv/ops/csrc/source$i.cpp -o source$i.o"; done
if [ -n "$FAKE_FAILURE" ]; then echo 'fatal error: Python.h: No such file or directory'; exit 1; fi
echo wheel > "$last/mmcv-2.1.0-cp311-cp311-linux_x86_64.whl"
"""


@pytest.fixture
def bootstrap(repo):
    spec = importlib.util.spec_from_file_location('bootstrap', repo / 'tools' / 'bootstrap.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def python(tmp_path):
    path = tmp_path / 'bin' / 'python'
    path.parent.mkdir()
    path.write_text(FAKE_PYTHON)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_compiles_with_progress_and_keeps_the_wheel_and_the_log(bootstrap, python, tmp_path, capsys):
    shelf = tmp_path / 'a cache' / 'cp311'
    wheel = bootstrap.compile_mmcv(python, '2.1.0', shelf)
    assert wheel == shelf / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl' and wheel.read_text() == 'wheel\n'
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(']')[0].strip() for line in shown] == ['mmcv [1/20', 'mmcv [10/20', 'mmcv [20/20']
    assert shown[1].endswith('source10')
    assert sorted(path.name for path in shelf.iterdir()) == ['build.log', wheel.name]


def test_a_failed_compilation_shows_its_end_and_leaves_no_wheel(bootstrap, python, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('FAKE_FAILURE', '1')
    with pytest.raises(SystemExit, match='error: mmcv did not compile; the end of its log is above, all of it in'):
        bootstrap.compile_mmcv(python, '2.1.0', tmp_path / 'shelf')
    assert 'fatal error: Python.h' in capsys.readouterr().err
    assert [path.name for path in (tmp_path / 'shelf').iterdir()] == ['build.log']


def test_no_compiler_is_a_sentence(bootstrap, python, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler -O2')
    with pytest.raises(SystemExit, match=r'error: there is no C\+\+ compiler \(no-such-compiler\): install one'):
        bootstrap.compile_mmcv(python, '2.1.0', tmp_path / 'shelf')


def test_a_cache_that_cannot_be_written_is_a_sentence(bootstrap, python, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(
        SystemExit, match=r'error: the wheel of mmcv cannot be kept in .* name a folder in MMSCALE_CACHE'
    ):
        bootstrap.compile_mmcv(python, '2.1.0', tmp_path / 'file' / 'shelf')


def test_half_an_environment_is_made_anew_and_a_strangers_folder_left_alone(bootstrap, tmp_path, monkeypatch):
    half = tmp_path / 'half'
    (half / 'bin').mkdir(parents=True)
    (half / 'pyvenv.cfg').write_text('')
    (half / 'bin' / 'python').symlink_to('/bin/false')
    assert not bootstrap.usable(half / 'bin' / 'python')
    calls = []

    def interrupt(command, **kwargs):
        calls.append(command)
        (half / 'bin').mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap.subprocess, 'run', interrupt)
    with pytest.raises(KeyboardInterrupt):
        bootstrap.create_venv(half)
    assert calls and not half.exists()
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'cat.png').write_text('')
    with pytest.raises(SystemExit, match='photos is not empty and no virtual environment: name another folder'):
        bootstrap.create_venv(tmp_path / 'photos')
    assert (tmp_path / 'photos' / 'cat.png').exists()


def test_fingerprint_follows_the_requirements(bootstrap, tmp_path, monkeypatch):
    before = bootstrap.fingerprint()
    assert bootstrap.fingerprint() == before
    changed = tmp_path / 'build.txt'
    changed.write_text('torch==2.99.0\n')
    monkeypatch.setattr(bootstrap, 'REQUIREMENTS', [changed, *bootstrap.REQUIREMENTS[1:]])
    assert bootstrap.fingerprint() != before


def test_the_environment_has_the_optional_packages_that_are_tested(repo):
    """CI runs the tests of semantic segmentation; what the user is told to install is what it installs."""
    package = next(package for package in stack.PACKAGES if package.name == 'mmsegmentation')
    command = package.install.split()
    assert command[:2] == ['pip', 'install']
    for name in ('tests', 'optional'):
        lines = (repo / 'requirements' / f'{name}.txt').read_text().splitlines()
        assert set(command[2:]) <= {line.partition('#')[0].strip() for line in lines}
