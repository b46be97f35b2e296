"""Latency, throughput and peak memory of any two or more configs, and their ratios to the first.

Each config lives in a process of its own (started fresh, not forked), which runs only when told to, so that they
neither share memory nor compute at the same time. After the warm-up the runs interleave, A B A B: what slows the
machine down for a while slows both, and the ratio of neighbouring runs is free of it. Memory is measured in extra runs,
since measuring costs time.

A process keeps what it was dealt: where its memory lies can make the same network some percent slower or faster for as
long as the process lives, and no number of runs in it averages that out. So there can be several rounds, each with new
processes and the order reversed; the ratio is then over rounds, not over runs.

Latency is the time that passed. CPU time is what the process spent on all its cores: on a machine that others use as
well it is the steadier of the two, above all with one thread (several threads spend time waiting for each other). On a
GPU it is the host's share.

What is compared is the same work on both sides: random weights, one random batch, and for two-stage detectors fixed
proposals (:func:`mmscale.analysis.proposals.pinned_proposals`). The default mode ``'tensor'`` leaves out the last
post-processing, whose work depends on what random weights happen to detect.
"""
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import wait
from os import PathLike
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmscale.files import markdown_table

from .benchmark_worker import MODES, Job, serve
from .model import check_input_size, load_config
from .statistics import paired_ratio, spread

__all__ = ['BenchmarkError', 'benchmark', 'benchmark_table']


class BenchmarkError(RuntimeError):
    """A config could not be measured; ``traceback`` is the worker's, where it had one."""

    def __init__(self, sentence: str, traceback: str = '') -> None:
        super().__init__(sentence)
        self.traceback = traceback


def benchmark(configs: Sequence[str | PathLike | Config], input_size: int | Sequence[int] = (800, 800), *,
              batch_size: int = 1, repeats: int = 10, warmup: int = 2, rounds: int = 1, device: str = 'cpu',
              threads: int | None = None, mode: str = 'tensor', compile: bool = False, amp: bool = False,
              pin_proposals: bool = True, cfg_options: dict | None = None, seed: int = 0, timeout: float = 1800,
              progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measures configs against the first of them.

    Args:
        configs (Sequence[str | PathLike | Config]): Two or more configs (one alone has no ratios).
        input_size (Sequence[int]): Height and width of the images. Defaults to (800, 800).
        batch_size (int): Images in a batch. Defaults to 1.
        repeats (int): Timed runs of each config in a round. Defaults to 10.
        warmup (int): Runs before, which do not count. Defaults to 2.
        rounds (int): How often all that happens, with new processes. One round compares its runs, several compare the
            medians of the rounds; six or more of either give a 95 % interval. Defaults to 1.
        device (str): 'cpu', 'cuda' or 'cuda:1'. Defaults to 'cpu'.
        threads (int, optional): PyTorch's threads on the CPU. Defaults to None, its own choice.
        mode (str): What one run is. Defaults to 'tensor'.

            - 'tensor': the network without the last post-processing.
            - 'predict': the detector's whole way to boxes.
            - 'backbone-neck': feature extraction alone.
            - 'train': losses and backward pass in training mode, with random objects.
        compile (bool): ``torch.compile`` for the model's direct children (backbone, neck, heads). Defaults to False.
        amp (bool): Autocast: float16 on CUDA, bfloat16 on a CPU. Defaults to False.
        pin_proposals (bool): Give two-stage detectors the same proposals. Defaults to True.
        cfg_options (dict, optional): Overrides, applied to every config. Defaults to None.
        seed (int): Of weights, pixels and proposals. Defaults to 0.
        timeout (float): Seconds that one step of one worker may take. Defaults to 1800.
        progress (Callable, optional): Told each step in a line. Defaults to None.

    Returns:
        dict: ``settings``, ``environment``, ``results`` (one per config) and ``ratios`` (one per config after the
        first), all ready for JSON. Times are in seconds, memory in bytes.

    Raises:
        BenchmarkError: If a config cannot be measured.
        FileNotFoundError: If a config does not exist.
        ValueError: If an argument makes no sense.
    """
    size = check_input_size(input_size)
    _check(configs, mode, repeats=(repeats, 1), warmup=(warmup, 0), rounds=(rounds, 1),
           batch_size=(batch_size, 1))
    _check_device(device)
    for config in configs:
        load_config(config, cfg_options)  # a wrong path is found before processes start
    tell = progress or (lambda line: None)
    names = _names(configs)
    common = dict(input_size=size, batch_size=batch_size, device=device, threads=threads, mode=mode, compile=compile,
                  amp=amp, pin_proposals=pin_proposals, cfg_options=cfg_options, seed=seed)
    jobs = {name: Job(config=config, **common) for name, config in zip(names, configs, strict=True)}
    taken: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in names}  # by config, round, run
    described: dict[str, dict] = {}
    for turn in range(rounds):
        with ExitStack() as stack:
            workers = [stack.enter_context(_Worker(name, jobs[name], timeout)) for name in names]
            for worker in workers:
                tell(f'building {worker.name}' + (f' (round {turn + 1}/{rounds})' if rounds > 1 else ''))
                described[worker.name] = worker.ask('build')
                taken[worker.name].append([])
            for run in range(-warmup, repeats):
                for worker in workers[::-1 if turn % 2 else 1]:
                    times = worker.ask('run')
                    if run >= 0:
                        taken[worker.name][-1].append(times)
                    step = 'warm-up' if run < 0 else f'run {run + 1}/{repeats}'
                    tell(f'{step} {worker.name}: {times[0] * 1e3:.1f} ms')
            if turn == 0:
                memory = {worker.name: worker.ask('memory') for worker in workers}
    environment = [described[name].pop('environment') for name in names][0]
    results = []
    for name, config in zip(names, configs, strict=True):
        passed, spent = ([[times[i] for times in runs] for runs in taken[name]] for i in (0, 1))
        results.append(dict(name=name, config=str(getattr(config, 'filename', config)), **described[name],
                            latency=_summary(passed), cpu_time=_summary(spent),
                            throughput=batch_size / spread(sum(passed, [])).median, memory=memory[name]))
    ratios = [_ratios(result, results[0]) for result in results[1:]]
    settings = dict(common, repeats=repeats, warmup=warmup, rounds=rounds)
    return dict(settings=settings, environment=environment, results=results, ratios=ratios)


def benchmark_table(report: dict[str, Any]) -> str:
    """The report of :func:`benchmark` as Markdown tables."""
    settings, environment = report['settings'], report['environment']
    versions = ', '.join(f'{name} {version}' for name, version in environment['versions'].items() if version)
    how = ''.join(f', {word}' for word in ('compile', 'amp') if settings[word])
    lines = [f"{environment['device_name']} ({environment['device']}, {environment['threads']} threads), {versions}",
             f"mode {settings['mode']}{how}, batch {settings['batch_size']}, images "
             f"{'x'.join(map(str, settings['input_size']))}, {settings['repeats']} runs after {settings['warmup']}"
             + (f", {settings['rounds']} rounds" if settings['rounds'] > 1 else ''), '']
    rows = [['config', 'params (M)', 'median (ms)', 'IQR', 'MAD', 'min', 'CPU time (ms)', 'img/s', 'peak tensors (MB)',
             'peak resident (MB)']]
    for result in report['results']:
        latency, memory = result['latency'], result['memory']
        rows.append([result['name'], f"{result['params'] / 1e6:.2f}",
                     *(f'{latency[key] * 1e3:.2f}' for key in ('median', 'iqr', 'mad', 'min')),
                     f"{result['cpu_time']['median'] * 1e3:.2f}", f"{result['throughput']:.2f}",
                     f"{memory['tensors'] / 1e6:.1f}",
                     '' if memory['resident'] is None else f"{memory['resident'] / 1e6:.1f}"])
    lines.append(markdown_table(rows, right=range(1, 10)))
    if report['ratios']:
        rows = [['ratio to the first', 'time', 'interval', 'time (min)', 'CPU time', 'interval', 'peak tensors',
                 'peak resident', 'params']]
        for ratio in report['ratios']:
            time, spent = ratio['latency'], ratio['cpu_time']
            rows.append([ratio['name'], f"{time['median']:.4f}",
                         f"{time['low']:.4f} - {time['high']:.4f} ({time['confidence']:.1%})",
                         f"{ratio['latency_min']:.4f}", f"{spent['median']:.4f}",
                         f"{spent['low']:.4f} - {spent['high']:.4f}", f"{ratio['memory_tensors']:.4f}",
                         '' if ratio['memory_resident'] is None else f"{ratio['memory_resident']:.4f}",
                         f"{ratio['params']:.4f}"])
        lines += ['', markdown_table(rows, right=range(1, 9))]
    return '\n'.join(lines)


def _summary(rounds: list[list[float]]) -> dict[str, Any]:
    """Spread of all runs, the runs, and what is compared: the only round's runs, or each round's median."""
    samples = sum(rounds, [])
    compared = samples if len(rounds) == 1 else [spread(runs).median for runs in rounds]
    return dict(asdict(spread(samples)), samples=samples, compared=compared)


def _ratios(result: dict, first: dict) -> dict[str, Any]:
    """Of one config to the first; time with its interval, the rest plainly."""
    latency, reference = result['latency'], first['latency']
    memory, base = result['memory'], first['memory']
    resident = None if memory['resident'] is None else memory['resident'] / base['resident']
    return dict(name=result['name'], to=first['name'],
                latency=asdict(paired_ratio(latency['compared'], reference['compared'])),
                latency_min=latency['min'] / reference['min'],
                cpu_time=asdict(paired_ratio(result['cpu_time']['compared'], first['cpu_time']['compared'])),
                throughput=result['throughput'] / first['throughput'],
                memory_tensors=memory['tensors'] / base['tensors'], memory_resident=resident,
                params=result['params'] / max(first['params'], 1))


class _Worker:
    """A process with one config, and the pipe to it; leaving the ``with`` block ends it in any case."""

    def __init__(self, name: str, job: Job, timeout: float) -> None:
        self.name, self.timeout = name, timeout
        context = multiprocessing.get_context('spawn')
        self.pipe, other_end = context.Pipe()
        self.process = context.Process(target=serve, args=(job, other_end), daemon=True)
        with _ignored_interrupt():
            self.process.start()
        other_end.close()

    def __enter__(self) -> '_Worker':
        return self

    def __exit__(self, *error: Any) -> None:
        with suppress(OSError):
            self.pipe.send('stop')
        self.process.join(0 if any(error) else 5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()

    def ask(self, word: str) -> Any:
        """Sends a word and waits for the answer.

        Raises:
            BenchmarkError: If the worker fails, dies, or takes longer than ``timeout``.
        """
        try:
            self.pipe.send(word)
            if not wait([self.pipe, self.process.sentinel], self.timeout):
                raise BenchmarkError(f"'{self.name}' did not finish '{word}' within {self.timeout:g} s; raise timeout "
                                     'or make the input smaller')
            state, answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            why = ' (killed, perhaps for want of memory)' if code == -9 else ''
            raise BenchmarkError(f"'{self.name}' died during '{word}' with exit code {code}{why}") from None
        if state == 'failed':
            sentence, traceback = answer
            raise BenchmarkError(f"'{self.name}' failed during '{word}': {sentence}", traceback)
        return answer


@contextmanager
def _ignored_interrupt() -> Iterator[None]:
    """A process started inside ignores Ctrl-C from its first moment on: its parent hears it and ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check(configs: Sequence, mode: str, **counts: tuple[int, int]) -> None:
    if isinstance(configs, (str, PathLike)) or not configs:
        raise ValueError(f'configs must be a list of configs, but is {configs!r}')
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, but is {mode!r}")
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f'{name} must be at least {least}, but is {value}')


def _check_device(device: str) -> None:
    import torch
    kind = torch.device(device).type
    if kind not in ('cpu', 'cuda'):
        raise ValueError(f"device must be 'cpu' or 'cuda', but is {device!r}")
    if kind == 'cuda' and not torch.cuda.is_available():
        raise ValueError(f'device={device!r} needs a GPU that PyTorch can use, and there is none here; use cpu')


def _names(configs: Sequence) -> list[str]:
    """File stems; equal ones are told apart by a number."""
    stems = [Path(str(getattr(config, 'filename', config) or f'config {i}')).stem for i, config in enumerate(configs)]
    return [stem if stems.count(stem) == 1 else f'{stem} #{stems[:i].count(stem) + 1}' for i, stem in enumerate(stems)]
