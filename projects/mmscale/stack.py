"""What MMScale stands on: what is installed, whether it works together, and the command that mends what does not.

``python -m mmscale`` prints the whole table; an ``import mmscale`` that fails for such a reason raises an ImportError
of the same sentences. Only the standard library is imported here, and the packages are tried in a process of their own,
so that a stack which does not import, or which takes the interpreter down with it, can still be described.

A version that merely differs from the tested one is shown as ``untested`` and never refused: whether it works is for
the trial imports to say, not for a comparison of numbers.
"""
from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

__all__ = ['BUILD_MMCV', 'Fault', 'Row', 'examine', 'explain', 'mmcv_without_gpu', 'optional_fault', 'reading_tables',
           'reporting', 'require_optional']

BUILD_MMCV = ('pip install "setuptools<81" wheel ninja psutil && pip install --no-build-isolation --no-binary mmcv '
              '--force-reinstall --no-deps --no-cache-dir mmcv==2.1.0')
_TRYING = 'MMSCALE_TRIAL_IMPORT'
PYTHONS = ('3.10', '3.11', '3.12')


@dataclass(frozen=True)
class Package:
    """One package of the stack: what it is called, what proves that it works, and what it needs to do so.

    Args:
        name (str): What the table calls it.
        dists (tuple[str]): The distributions that may provide it, the usual one first.
        tested (str): The version it was tested with, or a pattern such as ``2.*``.
        modules (tuple[str]): The modules whose import proves that it works; none for an optional package.
        needs (tuple[str]): The packages without which it cannot be imported.
        install (str): The command that installs the tested version.
        parts (tuple[str]): What an optional package consists of: modules that must be there, though not imported, for
            it to work.
    """
    name: str
    dists: tuple[str, ...]
    tested: str
    modules: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    install: str = ''
    parts: tuple[str, ...] = ()


PACKAGES = (
    Package('setuptools', ('setuptools',), '80.*', ('pkg_resources',), install='pip install "setuptools<81"'),
    Package('numpy', ('numpy',), '2.*', ('numpy',), install='pip install "numpy>=2"'),
    Package('opencv', ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python',
                       'opencv-contrib-python-headless'), '5.*', ('cv2',), ('numpy',), 'pip install opencv-python'),
    Package('pycocotools', ('pycocotools',), '2.*', ('pycocotools.mask',), ('numpy',),
            'pip install --force-reinstall --no-deps --no-cache-dir pycocotools'),
    Package('torch', ('torch',), '2.13.0', ('torch',), (), 'pip install torch==2.13.0'),
    Package('mmengine', ('mmengine', 'mmengine-lite'), '0.10.7', ('mmengine', 'mmengine.runner'),
            ('setuptools', 'numpy', 'opencv', 'torch'), 'pip install mmengine==0.10.7'),
    Package('mmcv', ('mmcv', 'mmcv-lite', 'mmcv-full'), '2.1.0', ('mmcv', 'mmcv._ext'),
            ('numpy', 'opencv', 'torch', 'mmengine'), BUILD_MMCV),
    Package('mmdet', ('mmdet',), '3.3.0', ('mmdet',), ('mmengine', 'mmcv'), 'pip install mmdet==3.3.0'),
    Package('mmyolo', ('mmyolo',), '0.6.0'),
    # it imports ftfy and regex, whatever its models are, but asks pip for neither
    Package('mmsegmentation', ('mmsegmentation',), '1.2.2', (), (), 'pip install mmsegmentation==1.2.2 ftfy regex',
            ('mmseg', 'ftfy', 'regex')),
)
# The distribution that provides a module, where the names differ.
DISTRIBUTIONS = {'yaml': 'pyyaml', 'PIL': 'pillow', 'cv2': 'opencv-python', 'skimage': 'scikit-image'}


@dataclass(frozen=True)
class Fault:
    """Something that breaks, and the command that mends it."""
    package: str
    cause: str
    mend: str

    @property
    def sentence(self) -> str:
        return f'{self.cause}; mend it with: {self.mend}'


@dataclass(frozen=True)
class Row:
    """One line of the table."""
    package: str
    found: str
    tested: str
    verdict: str


# Runs in a process of its own: every import may fail, hang on to output, or crash. One marked line per module.
_TRIAL = """
import importlib, json, sys
paths, modules = json.loads(sys.argv[1])
sys.path[:] = paths
def say(**record):
    print('@trial ' + json.dumps(record), flush=True)
for name in modules:
    say(module=name, state='started')
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        say(module=name, state='failed', kind=type(error).__name__, message=str(error),
            missing=getattr(error, 'name', None) or '')
    else:
        say(module=name, state='works', version=str(getattr(module, '__version__', '')))
try:
    import torch, mmcv._ext as ops
    say(module='gpu', state='works', visible=torch.cuda.is_available(), cuda=str(torch.version.cuda),
        mmcv=ops.get_compiling_cuda_version())
except BaseException:
    pass
"""


def try_imports(modules: list[str]) -> dict[str, dict]:
    """Import modules in a fresh interpreter with this one's search path and say how each of them went.

    Args:
        modules (list[str]): Names of modules, in the order to be tried.

    Returns:
        dict[str, dict]: Per module its last record: ``state`` (``works``, ``failed`` or ``crashed``) and what belongs
        to it. What followed a crash is absent.
    """
    flags = ['-S'] if sys.flags.no_site else []
    child = subprocess.run([sys.executable, *flags, '-c', _TRIAL, json.dumps([sys.path, modules])],
                           env={**os.environ, _TRYING: '1'}, capture_output=True, text=True, errors='replace',
                           check=False)
    records = {}
    for line in child.stdout.splitlines():
        if line.startswith('@trial '):
            record = json.loads(line[len('@trial '):])
            records[record['module']] = record
    for record in records.values():
        if record['state'] == 'started':
            record.update(state='crashed', kind='crash', missing='',
                          message=f'the interpreter ended with code {child.returncode} while importing it')
    return records


def version_of(dists: tuple[str, ...]) -> tuple[str, str]:
    """The first of several distributions that is installed, and its version; two empty strings without any."""
    for dist in dists:
        try:
            version = importlib.metadata.version(dist)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version:
            return dist, version
    return '', ''


def examine(own: bool = False) -> tuple[list[Row], list[Fault]]:
    """Look at the whole stack.

    Args:
        own (bool): Whether MMScale itself is tried too, at the end. Defaults to False.

    Returns:
        tuple[list[Row], list[Fault]]: The table's rows, and what breaks (empty where all is well).
    """
    python = '.'.join(map(str, sys.version_info[:3]))
    tested = 'ok' if python.rpartition('.')[0] in PYTHONS else 'untested'
    rows, faults = [Row('python', python, f'{PYTHONS[0]}-{PYTHONS[-1]}', tested)], []
    if sys.version_info < (3, 10):  # noqa: UP036 (this file must run on what it calls too old)
        faults.append(Fault('python', f'Python {python} is too old for MMScale',
                            'python3.11 -m venv .venv && . .venv/bin/activate'))
        rows[0] = Row('python', python, rows[0].tested, 'BROKEN')
    trials = try_imports([module for package in PACKAGES for module in package.modules] + ['mmscale'] * own)
    broken = {}
    for package in PACKAGES:
        dist, version = version_of(package.dists)
        # A source tree on the path has no distribution; its module still knows its version.
        version = version or next((trials.get(m, {}).get('version', '') for m in package.modules), '')
        failed = next((trials[m] for m in package.modules if trials.get(m, {}).get('state') in ('failed', 'crashed')),
                      None)
        culprit = next((broken[need] for need in package.needs if need in broken), None)
        untried = package.modules and not any(module in trials for module in package.modules)
        if failed and not culprit:
            fault = name_fault(package, dist, version, failed)
            faults.append(fault)
            broken[package.name] = package.name
            verdict = 'MISSING' if not version and failed['kind'] == 'ModuleNotFoundError' else 'BROKEN'
        elif failed or untried:
            culprit = culprit or (faults[-1].package if faults else 'the packages above')
            broken[package.name] = culprit
            verdict = f'waits for {culprit}'
        elif not package.modules and not version:
            verdict = 'optional, absent'
        elif absent := absent_parts(package):
            verdict = f'optional, lacks {", ".join(absent)}'
        else:
            verdict = 'ok' if fnmatch(version.partition('+')[0], package.tested) else 'untested'
        rows.append(Row(package.name, f'{version} ({dist})' if dist and dist != package.name else version or '-',
                        package.tested, verdict))
    gpu = trials.get('gpu')
    if gpu and gpu['visible'] and not mmcv_has_gpu(gpu['mmcv']):
        faults.append(gpu_fault(gpu['cuda']))
        rows = [Row(*vars(row).values()) if row.package != 'mmcv' else Row('mmcv', row.found, row.tested, 'BROKEN')
                for row in rows]
    if own and not faults:
        record = trials.get('mmscale', {})
        if record.get('state') != 'works':
            faults.append(Fault('mmscale', f'mmscale cannot be imported ({record.get("kind")}: '
                                f'{record.get("message")}) although the stack is sound',
                                'a report with the traceback of: python -c "import mmscale"'))
        rows.append(Row('mmscale', record.get('version') or '-', '', 'BROKEN' if faults else 'ok'))
    return rows, faults


def absent_parts(package: Package) -> list[str]:
    """The modules of an optional package that cannot be found; nothing is imported."""
    return [part for part in package.parts if importlib.util.find_spec(part) is None]


def optional_fault(name: str) -> Fault | None:
    """Why an optional package cannot be used now, and how to get it; None if all its parts are there.

    Args:
        name (str): Its name in the table, such as 'mmsegmentation'.
    """
    package = next(package for package in PACKAGES if package.name == name)
    absent = absent_parts(package)
    if not absent:
        return None
    cause = (f'{name} is optional, needed here and not installed' if package.parts[0] in absent
             else f'{name} lacks {" and ".join(absent)}, which it imports')
    return Fault(name, cause, package.install)


def require_optional(name: str) -> None:
    """Raise the sentence of :func:`optional_fault`, if there is a fault.

    Args:
        name (str): The package's name in the table.

    Raises:
        ModuleNotFoundError: A part of it is absent.
    """
    if fault := optional_fault(name):
        raise ModuleNotFoundError(fault.sentence)


def name_fault(package: Package, dist: str, version: str, record: dict) -> Fault:
    """Say in a sentence why an import failed, and which command mends it.

    Args:
        package (Package): The package that does not import.
        dist (str): The distribution that was found for it, or an empty string.
        version (str): That distribution's version, or an empty string.
        record (dict): What :func:`try_imports` says of the failed module.
    """
    message, what = ' '.join(record['message'].split()), f'{package.name} {version}'.strip()
    if record['kind'] == 'ModuleNotFoundError':
        missing = record['missing'] or record['module']
        if missing == record['module'] == package.modules[0] and not version:
            return Fault(package.name, f'{package.name} is not installed', package.install)
        if missing == 'pkg_resources':
            return Fault(package.name, f'{what} no longer has pkg_resources, which mmengine imports', package.install)
        if missing.partition('.')[0] not in [module.partition('.')[0] for module in package.modules]:
            top = missing.partition('.')[0]
            return Fault(package.name, f'{what} needs the module {top}, which is not installed',
                         f'pip install {DISTRIBUTIONS.get(top, top)}')
    if package.name == 'mmcv':
        return mmcv_fault(what, dist, record, message)
    if record['kind'] == 'AssertionError' and message.startswith('MMCV=='):
        return Fault('mmdet', f'{what} refuses the installed mmcv ("{message}")', BUILD_MMCV)
    if record['kind'] == 'AssertionError' and message.startswith('MMEngine=='):
        return Fault('mmdet', f'{what} refuses the installed mmengine ("{message}")', 'pip install mmengine==0.10.7')
    if package.name == 'opencv' and 'libGL' in message:
        return Fault('opencv', f'{what} needs a desktop library that this machine lacks ({message})',
                     f'pip uninstall -y {dist or "opencv-python"} && pip install --force-reinstall --no-deps '
                     'opencv-python-headless')
    return Fault(package.name, f'{what} cannot be imported ({record["kind"]}: {message})',
                 package.install.replace('pip install ', 'pip install --force-reinstall ')
                 if '--force-reinstall' not in package.install else package.install)


def mmcv_fault(what: str, dist: str, record: dict, message: str) -> Fault:
    """mmcv's own ways to break: it is compiled on this machine, against this torch, and knows neither afterwards."""
    if dist in ('mmcv-lite', 'mmcv-full'):
        return Fault('mmcv', f'{dist} is installed where MMScale needs mmcv 2.1.0 with its compiled operators',
                     f'pip uninstall -y {dist} && {BUILD_MMCV}')
    if record['kind'] == 'ModuleNotFoundError':
        cause = f"{what} is installed without its compiled operators (No module named '{record['missing']}')"
    elif 'cannot open shared object file' in message and ('cuda' in message or 'cudart' in message):
        cause = f"{what}'s operators were compiled for CUDA, which the installed torch does not bring ({message})"
    elif 'undefined symbol' in message or 'cannot open shared object file' in message or record['kind'] == 'crash':
        cause = f"{what}'s operators were compiled against another torch than the installed one ({message})"
    else:
        cause = f'{what} cannot be imported ({record["kind"]}: {message})'
    return Fault('mmcv', cause, BUILD_MMCV)


def mmcv_has_gpu(compiled_with: str) -> bool:
    """Whether mmcv's operators were compiled for a GPU, from what its ``get_compiling_cuda_version`` says."""
    return 'not available' not in compiled_with.lower()


def gpu_fault(cuda: str) -> Fault:
    """The fault of an mmcv that was compiled without CUDA on a machine with a GPU."""
    return Fault('mmcv', "mmcv's operators were compiled without CUDA, but torch sees a GPU, on which they fail "
                 f'(building them takes the nvcc of CUDA {cuda}; CUDA_VISIBLE_DEVICES=-1 hides the GPU instead)',
                 f'export FORCE_CUDA=1 && {BUILD_MMCV}')


def mmcv_without_gpu() -> Fault | None:
    """The same question asked of this process, which is about to train or test: cheap once torch is imported."""
    import mmcv._ext as operators
    import torch
    if torch.cuda.is_available() and not mmcv_has_gpu(operators.get_compiling_cuda_version()):
        return gpu_fault(str(torch.version.cuda))
    return None


def reporting() -> bool:
    """Whether the package is being imported for ``python -m mmscale``, which must work on the most broken stack."""
    return _module_to_run() == 'mmscale'


def reading_tables() -> bool:
    """Whether the package is being imported for ``reproduce.py list`` or ``show``, which need no torch.

    They read one file of text and should answer at once, where importing the stack takes seconds.
    """
    if sys.argv[1:2] not in (['list'], ['show']):
        return False
    package = Path(__file__).resolve().parent
    tools = [parent / 'tools' / 'reproduce.py' for parent in (package.parents[1], package / '.mim')]
    return _module_to_run() == 'mmscale.reproduce' or Path(sys.argv[0]).resolve() in tools


def _module_to_run() -> str | None:
    """The module of ``python -m``, while Python looks for it."""
    if sys.argv[:1] != ['-m']:  # what Python puts there meanwhile
        return None
    arguments = getattr(sys, 'orig_argv', [])[1:]
    first = next((i for i, argument in enumerate(arguments) if argument.startswith('-m')), None)
    if first is None:
        return None
    return arguments[first][2:] or next(iter(arguments[first + 1:]), None)


def explain(error: BaseException) -> None:
    """Raise an ImportError that says why the stack does not import; return if the stack is not to blame.

    Args:
        error (BaseException): What ``import mmscale`` stumbled over.

    Raises:
        ImportError: One sentence per fault, the same as ``python -m mmscale`` prints.
    """
    if _TRYING in os.environ:  # this is a trial import already
        return
    _, faults = examine()
    if faults:
        sentences = '\n'.join(fault.sentence for fault in faults)
        raise ImportError(f'{sentences}\n(python -m mmscale shows the whole stack)') from error


def table(rows: list[Row]) -> str:
    """Lay the rows out as a table.

    Example:
        >>> print(table([Row('torch', '2.13.0', '2.13.0', 'ok')]))
        package  found   tested with  verdict
        torch    2.13.0  2.13.0       ok
    """
    lines = [('package', 'found', 'tested with', 'verdict')] + [tuple(vars(row).values()) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]  # noqa: B905 (strict= is newer than what we diagnose)
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()  # noqa: B905
                     for line in lines)


def main() -> int:
    """Print the table and what does not fit.

    Returns:
        int: 0 where all is well, 1 where something breaks.
    """
    rows, faults = examine(own=True)
    print(table(rows))
    print(f'\n{Path(sys.prefix)} ({sys.executable})')
    for fault in faults:
        print(f'\n{fault.sentence}')
    if not faults:
        print('Everything that MMScale needs works.')
    return 1 if faults else 0
