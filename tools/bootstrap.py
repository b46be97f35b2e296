"""Set up ``.venv`` with the whole stack, from a Python and a C++ compiler alone.

Used by the Makefile; standard library only. Steps that are done are skipped, so a second run takes a second. mmcv is
compiled from its source distribution against the installed torch, once: its wheel is kept in ``~/.cache/mmscale`` (or
``$MMSCALE_CACHE``), one per Python, torch and machine, for every later environment.
"""

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get('MMSCALE_CACHE', Path.home() / '.cache' / 'mmscale'))
REQUIREMENTS = [TOP / 'requirements' / 'build.txt', TOP / 'requirements.txt', TOP / 'requirements' / 'tests.txt']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', type=Path, default=TOP / '.venv', help='where the environment is or shall be')
    args = parser.parse_args()
    args.venv = args.venv.absolute()
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        fail(f'Python {sys.version.split()[0]} is not supported: run this with Python 3.10, 3.11 or 3.12')
    python = args.venv / 'bin' / 'python'
    stamp = args.venv / '.mmscale-ready'
    wanted = fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return
    start = time.monotonic()
    if not usable(python):
        step(f'creating {args.venv.name} with Python {sys.version.split()[0]}')
        create_venv(args.venv)
    step('installing torch and what compiles mmcv')
    pip(python, 'install', '-r', str(REQUIREMENTS[0]))
    install_mmcv(python)
    step('installing the OpenMMLab stack and the test tools')
    pip(python, 'install', '--no-build-isolation', '-r', str(REQUIREMENTS[1]), '-r', str(REQUIREMENTS[2]))
    step('installing mmscale, editable')
    pip(python, 'install', '--quiet', '--no-build-isolation', '--no-deps', '-e', str(TOP))
    if subprocess.run([python, '-m', 'mmscale']).returncode:
        fail('the installed stack does not fit together: see the table above')
    stamp.write_text(wanted)
    step(f'ready after {time.monotonic() - start:.0f} s')


def fingerprint() -> str:
    """What the environment was made for: the requirements, the package's own metadata, Python."""
    content = b''.join(path.read_bytes() for path in [*REQUIREMENTS, TOP / 'setup.py'])
    return f'{hashlib.sha256(content).hexdigest()} python{sys.version_info[0]}.{sys.version_info[1]} {TOP}\n'


def usable(python: Path) -> bool:
    """Whether an environment is there and whole: one that was cut off while it was made has a Python without pip."""
    return (
        python.exists()
        and subprocess.run([python, '-m', 'pip', '--version'], stdout=subprocess.DEVNULL).returncode == 0
    )


def create_venv(path: Path) -> None:
    """A virtual environment, whole or not at all; only the rest of an earlier environment is replaced."""
    if path.exists() and any(path.iterdir()) and not (path / 'pyvenv.cfg').is_file():
        fail(f'{path} is not empty and no virtual environment: name another folder, make VENV=...')
    shutil.rmtree(path, ignore_errors=True)
    try:
        done = subprocess.run(
            [sys.executable, '-m', 'venv', str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    if done.returncode:
        shutil.rmtree(path, ignore_errors=True)
        reason = done.stdout.strip().splitlines()[-1:]
        fail(f'Python cannot make virtual environments ({reason}): on Debian and Ubuntu, install python3-venv')


def install_mmcv(python: Path) -> None:
    """Install mmcv with its compiled operators, from the kept wheel or by compiling it."""
    version = re.search(r'^mmcv==(\S+)', REQUIREMENTS[1].read_text(), re.M)[1]
    probe = (
        'import sys, platform, torch; print(f"cp{sys.version_info[0]}{sys.version_info[1]}-torch{torch.__version__}-'
        'cuda{int(torch.cuda.is_available())}-{platform.machine()}")'
    )
    key = subprocess.run([python, '-c', probe], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    installed = subprocess.run(
        [python, '-c', 'import mmcv.ops, mmcv; print(mmcv.__version__)'],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    if installed.returncode == 0 and installed.stdout.strip() == version:
        return
    shelf = CACHE / 'wheels' / key
    wheels = sorted(shelf.glob(f'mmcv-{version}-*.whl'))
    if wheels:
        step(f'mmcv {version}: using the wheel that was compiled before ({key})')
    else:
        step(f'mmcv {version}: compiling it for {key}; once, about 10 minutes on 2 cores')
        wheels = [compile_mmcv(python, version, shelf)]
    pip(python, 'install', '--force-reinstall', '--no-deps', str(wheels[0]))


def compile_mmcv(python: Path, version: str, shelf: Path) -> Path:
    """Compile mmcv's wheel with its progress shown, and keep it."""
    compiler = os.environ.get('CXX', 'c++').split()[0]
    if shutil.which(compiler) is None:
        fail(f'there is no C++ compiler ({compiler}): install one (Debian, Ubuntu: g++, python3-dev) or name it in CXX')
    try:
        shelf.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f'the wheel of mmcv cannot be kept in {shelf} ({error.strerror}): name a folder in MMSCALE_CACHE')
    log = shelf / 'build.log'
    with tempfile.TemporaryDirectory(dir=shelf) as build:
        command = [
            str(python),
            '-m',
            'pip',
            'wheel',
            '-v',
            '--no-deps',
            '--no-build-isolation',
            '--no-cache-dir',
            '--no-binary',
            'mmcv',
            f'mmcv=={version}',
            '-w',
            build,
        ]
        # ninja and c++ are found beside the environment's python
        env = {**os.environ, 'MMCV_WITH_OPS': '1', 'PATH': f'{python.parent}{os.pathsep}{os.environ["PATH"]}'}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        env.setdefault('MAX_JOBS', str(cores))
        with log.open('w') as sink:
            process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            with stopping(process):
                show_ninja(process.stdout, sink)
        wheels = list(Path(build).glob('mmcv-*.whl'))
        if process.returncode or not wheels:
            print(''.join(log.read_text().splitlines(keepends=True)[-30:]), file=sys.stderr)
            fail(f'mmcv did not compile; the end of its log is above, all of it in {log}')
        return Path(shutil.move(str(wheels[0]), shelf))


@contextlib.contextmanager
def stopping(process: subprocess.Popen):
    """Wait for a process, and take it along when this one is stopped."""
    try:
        yield
        process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def show_ninja(lines, sink) -> None:
    """Copy a build's output to ``sink`` and show which of ninja's steps it is at."""
    live, start = sys.stdout.isatty(), time.monotonic()
    for line in lines:
        sink.write(line)
        sink.flush()
        match = re.search(r'\[(\d+)/(\d+)\]', line)
        if match:
            done, total = int(match[1]), int(match[2])
            source = re.search(r'(\w+)\.(?:cpp|cu|cc)\b', line)
            text = f'    mmcv [{done}/{total}] {time.monotonic() - start:4.0f} s  {source[1] if source else "linking"}'
            if live:
                print(f'\r{text:<76.76}', end='', flush=True)
            elif done % 10 == 0 or done in (1, total):
                print(text, flush=True)
    if live:
        print()


def pip(python: Path, *args: str) -> None:
    """Run the environment's pip; a failure ends the set-up with pip's own words above."""
    if subprocess.run(
        [python, '-m', 'pip', '--disable-pip-version-check', *args], env={**os.environ, 'PIP_PROGRESS_BAR': 'on'}
    ).returncode:
        fail(f'`pip {" ".join(args)}` failed, see above; run the same command again to go on from here')


def step(text: str) -> None:
    print(f'== {text}', flush=True)


def fail(text: str) -> None:
    sys.exit(f'error: {text}')


if __name__ == '__main__':
    main()
