"""Where the time of a forward goes: by module and by class.

Every module's forward is timed by hooks while the whole model runs on a random image, so a module's time includes its
children's, and that of the hooks (some microseconds each). What a module does outside of its forward, and methods other
than forward, belong to the module that calls them.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from mmscale.files import markdown_table
from mmscale.layers import reparameterize

from .benchmark_worker import environment
from .model import build_model, load_config, random_batch
from .op_counter import OpCounter

__all__ = ['ModuleTimes', 'measure_module_times', 'module_times_table']


@dataclass
class ModuleTimes:
    """Times of one config's forward, each a median over the runs, in seconds.

    Attributes:
        config (str): The config.
        network_input (list[int]): ``(B, 3, H, W)``.
        environment (dict): Device, threads and versions.
        repeats (int): Runs.
        total (float): Of the whole forward.
        modules (dict[str, float]): By the module's name, in the order of the model.
        classes (dict[str, float]): By the name of a class: its instances together, those inside of another instance of
            it not counted again.
        macs (dict[str, int]): Multiply-adds by the module's name.
        calls (dict[str, int]): Calls in a forward that are not within another one of the same class, by its name.
    """

    config: str
    network_input: list[int]
    environment: dict
    repeats: int
    total: float
    modules: dict[str, float]
    classes: dict[str, float]
    macs: dict[str, int]
    calls: dict[str, int]


def measure_module_times(
    config: str,
    shape: Sequence[int] = (640, 640),
    *,
    repeats: int = 5,
    warmup: int = 1,
    batch_size: int = 1,
    device: str = 'cpu',
    threads: int | None = None,
    reparam: bool = True,
    cfg_options: dict | None = None,
    seed: int = 0,
) -> ModuleTimes:
    """Time the modules of a config's model, in evaluation mode and with random weights.

    Args:
        config (str): As :func:`~mmscale.analysis.model.load_config`'s.
        shape (Sequence[int]): Height and width of the image. Defaults to (640, 640).
        repeats (int): Timed runs. Defaults to 5.
        warmup (int): Runs before those. Defaults to 1.
        batch_size (int): B. Defaults to 1.
        device (str): 'cpu', 'cuda' or 'cuda:1', where every module waits for the device. Defaults to 'cpu'.
        threads (int, optional): PyTorch's threads on the CPU. Defaults to None, its own choice.
        reparam (bool): Whether blocks are folded for inference first. Defaults to True.
        cfg_options (dict, optional): Overrides by dotted key. Defaults to None.
        seed (int): Of weights and pixels. Defaults to 0.

    Raises:
        ValueError: If ``repeats`` is below 1.
    """
    if repeats < 1 or warmup < 0 or (threads is not None and threads < 1):
        raise ValueError(f'repeats={repeats} and threads={threads} should be 1 or more, warmup={warmup} 0 or more')
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        model = build_model(load_config(config, cfg_options), device, seed)
        model = reparameterize(model) if reparam else model
        inputs, samples = random_batch(model, tuple(shape), batch_size, seed)

        def forward() -> None:
            model(inputs, samples, mode='tensor')

        with torch.no_grad():
            with OpCounter() as counter:
                forward()
            root = type(model).__name__
            macs = {name: counter.by_module[f'{root}.{name}'] for name, _ in model.named_modules() if name}
            for _ in range(warmup):
                forward()
            runs = [_timed(model, forward, inputs) for _ in range(repeats)]
        names = [name for name, _ in model.named_modules() if name in runs[0][1]]
        return ModuleTimes(
            config=str(config),
            network_input=list(inputs.shape),
            environment=environment(device),
            repeats=repeats,
            total=median(total for total, _, _, _ in runs),
            modules={name: median(run[1][name] for run in runs) for name in names},
            classes={name: median(run[2][name] for run in runs) for name in runs[0][2]},
            macs=macs,
            calls=runs[0][3],
        )
    finally:
        torch.set_num_threads(before)


def _timed(model: nn.Module, forward: Callable[[], None], like: Tensor) -> tuple[float, dict, dict, dict]:
    """One forward: its seconds, those by module and by class, and the calls by class."""
    synchronize = torch.cuda.synchronize if like.is_cuda else lambda: None

    def now() -> float:
        synchronize()
        return time.perf_counter()

    modules: dict[str, float] = defaultdict(float)
    classes: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    running: list[tuple[str, float]] = []

    def enter(module: nn.Module, args: tuple) -> None:
        running.append((type(module).__name__, now()))

    def leave(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, out: object) -> None:
            kind, start = running.pop()
            modules[name] += (spent := now() - start)
            if kind not in [outer for outer, _ in running]:
                classes[kind] += spent
                calls[kind] += 1

        return hook

    with _hooks(model, enter, leave):
        start = now()
        forward()
        return now() - start, dict(modules), dict(classes), dict(calls)


@contextmanager
def _hooks(model: nn.Module, enter: Callable, leave: Callable[[str], Callable]) -> Iterator[None]:
    handles = []
    try:
        for name, module in model.named_modules():
            if name:
                handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave(name))]
        yield
    finally:
        for handle in handles:
            handle.remove()


def module_times_table(times: ModuleTimes, depth: int = 2, least: float = 0.01) -> str:
    """Two Markdown tables: modules by name, and classes, the longest first.

    Args:
        times (ModuleTimes): What was measured.
        depth (int): Names of more parts are left out of the first table. Defaults to 2.
        least (float): So is what takes a smaller share of the whole. Defaults to 0.01.
    """
    where, size = times.environment, 'x'.join(map(str, times.network_input))
    head = (
        f'{times.config}, {size}: {times.total * 1e3:.1f} ms a forward, median of {times.repeats}; '
        f'{where["device_name"]} ({where["device"]}, {where["threads"]} threads), torch {where["versions"]["torch"]}'
    )
    modules = [['module', 'ms', 'share', 'GMACs', 'ms per GMAC']]
    for name, seconds in times.modules.items():
        if name.count('.') < depth and seconds >= least * times.total:
            giga = times.macs.get(name, 0) / 1e9
            pace = f'{seconds * 1e3 / giga:.1f}' if giga else ''
            modules.append([name, f'{seconds * 1e3:.1f}', f'{seconds / times.total:.1%}', f'{giga:.3f}', pace])
    classes = [['class', 'calls', 'ms', 'share']]
    for name, seconds in sorted(times.classes.items(), key=lambda item: -item[1]):
        if seconds >= least * times.total:
            classes.append([name, str(times.calls[name]), f'{seconds * 1e3:.1f}', f'{seconds / times.total:.1%}'])
    tables = markdown_table(modules, right=range(1, 5)), markdown_table(classes, right=range(1, 4))
    return '\n\n'.join((head, *tables))
