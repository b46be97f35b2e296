"""What training and testing share on the command line: options, the config, and how a user's mistake is told.

A mistake of the user ends in one line, ``error: ...``, and exit code 2. Everything else is a fault of the program and
keeps its traceback. ``MMSCALE_DEBUG=1`` shows the traceback of a mistake too.
"""
import argparse
import ast
import difflib
import dis
import functools
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS, build_from_cfg
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from torch.distributed.elastic.multiprocessing.errors import record

from .. import stack
from ..compat import import_mmyolo, local_rank_of
from ..options import options_of

__all__ = ['UsageError', 'add_common', 'build_runner', 'command', 'load_config', 'say']

# Keys that mmengine's runner reads from the config beside its own arguments.
READ_FROM_CONFIG = (
    'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval', 'find_unused_parameters',
    'model_wrapper_cfg', 'runner_type', 'sync_bn', 'tta_model', 'tta_pipeline')

FILE_ERRORS = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
CHECK_ERRORS = (ValueError, TypeError, KeyError, ImportError)  # what this package's checks raise
IN_WORKER = r'Caught \w+ in DataLoader worker process \d+\.\nOriginal (Traceback .*)'  # written by torch


class UsageError(ValueError):
    """A mistake in what the user typed or configured; its one sentence is all that is shown."""


def is_mistake(error: BaseException) -> str | None:
    """Tell a user's mistake from a fault of the program.

    A mistake is a :class:`UsageError`; a file that does not exist or may not be read; a name that no registry knows; an
    argument in a config that its class does not take, or one that it needs and the config lacks; or whatever a check of
    this package raised on purpose, by a ``raise`` statement of its own. mmengine's registries raise
    an error anew with a longer text, so the chain is followed to its first link, or to the last one that this package
    raised: where it says more than the one before, it means it. What a data loader's worker met comes
    as an error of the same type with the worker's traceback for its text, and is judged by that.

    Returns:
        str | None: The sentence to be shown, or None for a fault of the program.
    """
    if str(error).startswith('Caught ') and (told := re.match(IN_WORKER, str(error), re.S)):
        return is_mistake_in_worker(error, told[1])
    if isinstance(error, UsageError):
        return str(error)
    first = error
    while not _is_ours(first) and isinstance(link := first.__cause__ or first.__context__, type(error)):
        first = link
    frames = first.__traceback__
    if frames is None:
        return None
    while frames.tb_next is not None:
        frames = frames.tb_next
    module = frames.tb_frame.f_globals.get('__name__', '')
    if isinstance(error, FILE_ERRORS):
        # Without a name it is a socket or a pipe of the program's own; from subprocess, a program that is not there.
        named = error.errno is None or error.filename is not None
        return str(error) if named and module != 'subprocess' else None
    raised = frames.tb_frame.f_code.co_code[frames.tb_lasti] == dis.opmap['RAISE_VARARGS']
    ours = module.split('.')[0] == 'mmscale'
    if raised and ours and isinstance(error, CHECK_ERRORS):
        return str(first.args[0]) if isinstance(first, KeyError) else str(first)
    if raised and module.startswith('mmengine.registry') and isinstance(error, KeyError):
        return str(first.args[0])
    return misfit_of_arguments(first) if isinstance(first, TypeError) else None


def misfit_of_arguments(error: TypeError) -> str | None:
    """The sentence for arguments in a config that do not fit the class which a registry builds from them.

    The class itself refused the call, or one of its bases that it hands unknown arguments on to. Any other call with
    wrong arguments is a fault of the program, also while something is built.

    Returns:
        str | None: The sentence, or None for a fault of the program.
    """
    told = re.match(r"([\w.<>]+)\(\) (?:got an (unexpected) keyword argument|missing \d+ required .*?arguments?:) "
                    r"('.*)", str(error))
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    builds = [index for index, frame in enumerate(frames) if frame.f_code is build_from_cfg.__code__]
    if told is None or not builds:
        return None
    local, callers = frames[builds[-1]].f_locals, frames[builds[-1] + 1:]
    built, given = local.get('obj_cls'), local['args']
    if not inspect.isclass(built) or told[1] not in [f'{cls.__qualname__}.__init__' for cls in built.__mro__]:
        return None
    names = re.findall(r"'(\w+)'", told[3])
    names = names[:1] if told[2] else names
    for frame in callers:
        arguments = inspect.getargs(frame.f_code)
        hands_on = frame.f_code.co_name == '__init__' and type(frame.f_locals.get('self')) is built and arguments.varkw
        if not hands_on or set(names) & set(arguments.args):
            return None
    if not told[2]:
        needed = ' and '.join(f"'{name}'" for name in names)
        return None if set(names) & set(given) else f'the config gives {built.__name__} no {needed}, which it needs'
    if names[0] not in given:
        return None
    owners = [key for key, value in given.items() if isinstance(value, dict) and names[0] in value]
    near = difflib.get_close_matches(names[0], options_of(built)[0], n=1)
    hint = f"; its '{owners[0]}' has that field" if owners else f", did you mean '{near[0]}'?" if near else ''
    return f"the config gives {built.__name__} a '{names[0]}', which it does not take{hint}"


def _is_ours(error: BaseException) -> bool:
    """Whether a function of this package raised the error itself."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    return frames is not None and frames.tb_frame.f_globals.get('__name__', '').split('.')[0] == 'mmscale'


def is_mistake_in_worker(error: BaseException, told: str) -> str | None:
    """The same for an error that torch carried over from a data loader's worker.

    Args:
        error (BaseException): Of the type that the worker's error had.
        told (str): The worker's traceback, as Python prints it.

    Returns:
        str | None: The worker's own sentence, or None for a fault of the program.
    """
    last = re.split(r'^Traceback \(most recent call last\):\n', told, flags=re.M)[-1]
    # Frames are indented: a line for the place, then the statement; the first line that is not begins the message.
    match = re.match(r'((?: .*\n)+)[\w.]+(?:: (.*))?$', last, re.S)
    places = match and list(re.finditer(r'^  File "(.+)", line \d+, in .*\n(.*)', match[1], re.M))
    if not places:
        return None
    file, statement = Path(places[-1][1]).resolve(), places[-1][2].strip()
    sentence = (match[2] or '').strip()
    if isinstance(error, FILE_ERRORS):
        named = not sentence.startswith('[Errno ') or sentence.endswith(("'", '"'))
        return sentence if named and file.name != 'subprocess.py' else None
    ours = file.is_relative_to(Path(__file__).resolve().parents[1])
    if isinstance(error, UsageError) or (ours and statement.startswith('raise ') and isinstance(error, CHECK_ERRORS)):
        return ast.literal_eval(sentence) if type(error) is KeyError and sentence[:1] in ('"', "'") else sentence
    return None


def command(function: Callable[[list[str] | None], None]) -> Callable[[list[str] | None], None]:
    """Make a function of argv a command: a mistake in one line, and torchrun told of any other error that ended a rank.

    Args:
        function (Callable): Takes the arguments after the program's name; None means ``sys.argv``.
    """

    @record  # torchrun then prints the error of the first rank to fail, not only its exit code
    @functools.wraps(function)
    def run(argv: list[str] | None = None) -> None:
        try:
            function(argv)
        except Exception as error:
            sentence = is_mistake(error)
            if sentence is None or os.environ.get('MMSCALE_DEBUG', '0') not in ('', '0'):
                raise
            rank = f'[rank {os.environ["RANK"]}] ' if 'RANK' in os.environ else ''
            print(f'{rank}error: {" ".join(sentence.split())}', file=sys.stderr, flush=True)
            sys.exit(2)

    return run


class Options(DictAction):
    """mmengine's ``KEY=VALUE`` options, with a sentence for a value that it cannot parse (or recurses on for ever).

    A dict is such a value: mmengine would take it for a text, or cut it at its commas.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            if any(re.match(r'(.*[\[(,])?[\s\'"]*(\{|dict\()', word.partition('=')[2]) for word in values):
                raise ValueError
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, RecursionError, ValueError):
            parser.error(f'{option_string} {" ".join(values)}: should be KEY=VALUE, where a value is a number, a word, '
                         'or a list of those such as "[a,b]"; a dict belongs into a config file, or each of its fields '
                         'is set by itself: KEY.FIELD=VALUE')


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share, by MMDetection's names."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and results; by default work_dirs/<config>')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE',
                        help='change the config: model.backbone.depth=18, or a list as key="[a,b]" or key=a,b')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='what started the processes of a distributed run')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.epilog = 'MMSCALE_DEBUG=1 shows the traceback of a mistake that is otherwise told in one line.'


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply what the command line says about it.

    Args:
        args (argparse.Namespace): With ``config`` (a path, or ``mmscale::fine/...`` for one that came with a package)
            and the options of :func:`add_common`.

    Raises:
        ModuleNotFoundError: If it needs MMSegmentation, which is not installed or not whole.
        UsageError: If the config does not exist, or ``--cfg-options`` names a key that nothing would read.
    """
    os.environ['LOCAL_RANK'] = str(local_rank_of(args.launcher, default=args.local_rank))
    path = args.config
    if '::' in path:
        try:
            path = Config._get_cfg_path(path, '')[0]
        except (AssertionError, ModuleNotFoundError, ValueError) as error:
            raise UsageError(f"config '{args.config}' names no installed package's config ({error})") from error
    elif not Path(path).is_file():
        raise UsageError(f"config '{path}' does not exist")
    try:
        cfg = Config.fromfile(path)
    except ModuleNotFoundError as error:
        if 'mmsegmentation' in str(error) and (fault := stack.optional_fault('mmsegmentation')):
            raise UsageError(fault.sentence) from error
        raise
    if cfg.get('default_scope') == 'mmseg':
        stack.require_optional('mmsegmentation')
    if cfg.get('default_scope') == 'mmyolo':
        import_mmyolo()  # where it is absent, mmengine warns of a 'None.registry' first
    apply_options(cfg, args.cfg_options)
    if any(key.partition('.')[0] == 'custom_imports' for key in args.cfg_options or {}):
        import_modules_from_strings(**cfg.custom_imports)  # mmengine imports only what the file itself names
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    return cfg


def apply_options(cfg: Config, options: dict | None) -> None:
    """Merge ``--cfg-options`` into a config; refuse a key that it has not, and warn of one that only made others."""
    read = keys_of_runner()
    known = {*cfg, *read}
    for key in options or {}:
        if (top := key.partition('.')[0]) not in known:
            near = difflib.get_close_matches(top, known, n=1)
            raise UsageError(f"--cfg-options {key}: the config has no '{top}'"
                             + (f", did you mean '{near[0]}'?" if near else ''))
        if top not in read:
            say(f"warning: --cfg-options {key}: '{top}' is a variable of the config file, and what was made from it "
                'keeps its value; change the field itself, for instance train_dataloader.dataset.pipeline')
    try:
        cfg.merge_from_dict(options or {})
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UsageError(f'--cfg-options {", ".join(options)} does not fit into the config '
                         f'({error.args[0] if error.args else error})') from error


def keys_of_runner() -> set[str]:
    """The keys of a config that the runner reads, whether a config has them or not."""
    return {*READ_FROM_CONFIG, *inspect.signature(Runner.__init__).parameters} - {'self', 'cfg'}


def build_runner(cfg: Config) -> Runner:
    """Build the runner that the config asks for, on a stack that can run it.

    Raises:
        UsageError: If a GPU is visible that mmcv's operators were not compiled for.
    """
    if fault := stack.mmcv_without_gpu():
        raise UsageError(fault.sentence)
    return Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)


def say(line: str) -> None:
    """Print a line, once: in a distributed run only the first process does."""
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0' and is_main_process():
        print(line, flush=True)
