"""What Partition saves: time, peak memory and multiply-adds of CFSAM's global feature extraction at several P.

Paper: CFSAM (arXiv 2510.14726), section 3.2, which says of P = 2 that "theoretically, the computational cost is reduced
by half". Half of what, and what is left of it in seconds and bytes, is measured here: Partition, the Transformer and
Combine with CFSAM's own defaults, on random tokens; where P does not divide their number, the interpolation there and
back as well. One module serves every P, so the weights are the same numbers at the same place in memory.

The runs interleave, P = 1, 2, 4, 1, 2, 4, and ratios are of neighbouring runs, as in :mod:`mmscale.analysis.benchmark`.
Memory is measured in runs of its own, by :mod:`mmscale.analysis.memory`.

Attention has two kernels, because memory depends on it: ``'default'`` is the one that PyTorch chooses, a fused one,
which never holds the N x N matrix of weights; ``'math'`` writes the matrix out, as softmax between two matrix products.

Shape shorthand in this module:
    B: batch, N: tokens, P: parts, C: channels
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmscale.analysis.benchmark_worker import environment
from mmscale.analysis.memory import peak_memory
from mmscale.analysis.op_counter import OpCounter
from mmscale.analysis.statistics import paired_ratio, spread

from .cfsam import CFSAM
from .gfe import GlobalFeatureExtraction
from .partition import shrink, stretch

__all__ = ['KERNELS', 'MODES', 'benchmark_partition', 'count', 'needed_memory']

MODES = ('predict', 'train')
KERNELS = ('default', 'math')


def benchmark_partition(
    tokens: Sequence[int] = (1940, 20000),
    parts: Sequence[int] = (1, 2, 4),
    *,
    modes: Sequence[str] = MODES,
    kernels: Sequence[str] = KERNELS,
    batch_size: int = 1,
    repeats: int = 10,
    warmup: int = 1,
    device: str = 'cpu',
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure every P against the first one, at every number of tokens, with every kernel.

    What needs more memory than is free is left out, and says so in ``skipped``.

    Args:
        tokens (Sequence[int]): Numbers of tokens. Defaults to (1940, 20000): SSD300's, and about those of an 800x1333
            image in an FPN from stride 8 on.
        parts (Sequence[int]): Values of P; ratios are to the first. Defaults to (1, 2, 4).
        modes (Sequence[str]): What one run is. Defaults to both.

            - 'predict': forward, without gradients.
            - 'train': forward and backward, to the weights and to the tokens.
        kernels (Sequence[str]): Which attention. Defaults to both.

            - 'default': PyTorch's choice.
            - 'math': the N x N matrix is written out.
        batch_size (int): B. Defaults to 1.
        repeats (int): Timed runs of each P. Six or more give a 95 % interval. Defaults to 10.
        warmup (int): Runs before, which do not count. Defaults to 1.
        device (str): 'cpu', 'cuda' or 'cuda:1'. Defaults to 'cpu'.
        threads (int, optional): PyTorch's threads on the CPU. Defaults to None, its own choice.
        seed (int): Of weights and tokens. Defaults to 0.
        progress (Callable, optional): Told each step in a line. Defaults to None.

    Returns:
        dict: ``settings``, ``environment``, ``costs`` (multiply-adds of a forward, for each N and P) and ``results``
        (one for each N, mode, kernel and P), all ready for JSON. Times are in seconds, memory in bytes.

    Raises:
        ValueError: If an argument makes no sense.
    """
    _check(tokens, parts, modes, kernels, batch_size=(batch_size, 1), repeats=(repeats, 1), warmup=(warmup, 0))
    _check_machine(device, threads)
    settings = dict(tokens=list(tokens), parts=list(parts), modes=list(modes), kernels=list(kernels))
    settings |= dict(batch_size=batch_size, repeats=repeats, warmup=warmup, device=device, threads=threads, seed=seed)
    tell = progress or (lambda line: None)
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or threads_before)
        results = []
        for length, mode, kernel in product(tokens, modes, kernels):
            work = _Work(length, mode, kernel, batch_size, device, seed)
            results += _measure(work, parts, repeats, warmup, tell)
        return dict(
            settings=settings,
            environment=environment(device),
            costs=[count(length, p, batch_size) for length, p in product(tokens, parts)],
            results=results,
        )
    finally:
        torch.set_num_threads(threads_before)


def count(tokens: int, parts: int, batch_size: int = 1) -> dict[str, int]:
    """Multiply-adds of a forward, counted as in :mod:`mmscale.analysis.op_costs`; nothing is computed for it.

    Args:
        tokens (int): N.
        parts (int): P.
        batch_size (int): B. Defaults to 1.

    Returns:
        dict: ``tokens``, ``parts``, ``macs``, and ``attention``: those of them that are attention's two products,
        ``2 N^2 C / P`` in each layer.

    Example:
        >>> [count(20000, parts)['attention'] / 1e9 for parts in (1, 2, 4)]
        [614.4, 307.2, 153.6]
    """
    with torch.device('meta'):
        gfe = _module()
        inputs = torch.empty(batch_size, tokens, _channels(gfe))
    with torch.no_grad(), OpCounter() as counter:
        _forward(gfe, inputs, parts)
    padded = -(-tokens // parts) * parts
    attention = batch_size * len(gfe.transformer) * 2 * padded**2 * _channels(gfe) // parts
    return dict(tokens=tokens, parts=parts, macs=counter.total, attention=attention)


def needed_memory(tokens: int, parts: int, mode: str, kernel: str, batch_size: int = 1) -> int:
    """About the peak of tensors in bytes, rather too much than too little.

    The math kernel holds the scores, the weights and a mask of bytes at once, each N x N / P for every head; in
    training the weights of every layer stay for the backward, where two more appear. The rest is sequences, B x N x C
    each, as counted in runs: about 11 in a forward, 12 for each layer in training.

    Args:
        tokens (int): N.
        parts (int): P.
        mode (str): One of :data:`MODES`.
        kernel (str): One of :data:`KERNELS`.
        batch_size (int): B. Defaults to 1.
    """
    with torch.device('meta'):
        gfe = _module()
    layers, training = len(gfe.transformer), mode == 'train'
    weights = 4 * sum(weight.numel() for weight in gfe.parameters())
    sequence = 4 * batch_size * tokens * _channels(gfe)
    needed = (2 if training else 1) * weights + (4 + 12 * layers if training else 11) * sequence
    if kernel == 'math':
        matrix = 4 * batch_size * gfe.transformer[0].attention.num_heads * tokens**2 // parts
        needed += int((2.25 + layers * training) * matrix)
    return needed


def free_memory(device: str) -> float:
    """Bytes that may still be allocated; infinite where the system does not say."""
    if device != 'cpu':
        return torch.cuda.mem_get_info(device)[0]
    free = float('inf')
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:'))
        group = Path('/sys/fs/cgroup')  # a container's own limit; 'max' where there is none
        limit, used = ((group / name).read_text().strip() for name in ('memory.max', 'memory.current'))
        return free if limit == 'max' else min(free, int(limit) - int(used))
    except (OSError, StopIteration, ValueError):
        return free


def _module() -> GlobalFeatureExtraction:
    """CFSAM's with CFSAM's defaults; its weights and state do not depend on P."""
    return CFSAM(in_channels=[1]).gfe


def _channels(gfe: GlobalFeatureExtraction) -> int:
    return gfe.transformer[0].attention.proj.in_features


def _forward(gfe: GlobalFeatureExtraction, tokens: torch.Tensor, parts: int) -> torch.Tensor:
    """``(B, N, C)`` to ``(B, N, C)``, as CFSAM calls it."""
    gfe.num_parts = parts
    return shrink(gfe(stretch(tokens, parts)), tokens.shape[1])


class _Work:
    """One number of tokens, mode and kernel: what a run at any P is."""

    def __init__(self, tokens: int, mode: str, kernel: str, batch_size: int, device: str, seed: int) -> None:
        self.tokens, self.mode, self.kernel = tokens, mode, kernel
        self.batch_size, self.device = batch_size, device
        torch.manual_seed(seed)
        self.gfe = _module().to(device)
        self.inputs = torch.rand(batch_size, tokens, _channels(self.gfe)).to(device)
        self.inputs.requires_grad_(mode == 'train')

    def run(self, parts: int) -> None:
        with sdpa_kernel(SDPBackend.MATH) if self.kernel == 'math' else nullcontext():
            if self.mode == 'predict':
                with torch.no_grad():
                    _forward(self.gfe, self.inputs, parts)
                return
            out = _forward(self.gfe, self.inputs, parts)
            out.backward(torch.ones_like(out))
            self.gfe.zero_grad(set_to_none=True)  # the next run, and its memory, starts from nothing
            self.inputs.grad = None

    def seconds(self, parts: int) -> tuple[float, float]:
        """Passed, and spent by the process on all its cores."""
        synchronize = torch.cuda.synchronize if self.inputs.is_cuda else lambda: None
        synchronize()
        start, spent = time.perf_counter(), time.process_time()
        self.run(parts)
        synchronize()
        return time.perf_counter() - start, time.process_time() - spent

    def lack(self, parts: int) -> str | None:
        """A sentence if there is not enough memory for a run."""
        needed = needed_memory(self.tokens, parts, self.mode, self.kernel, self.batch_size)
        free = free_memory(self.device)
        if needed <= free:
            return None
        return f'not measured: it needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free'

    def memory(self, parts: int) -> dict[str, Any]:
        return peak_memory(lambda: self.run(parts), self.gfe, self.inputs)


def _measure(
    work: _Work, parts: Sequence[int], repeats: int, warmup: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One result for each P."""
    name = f'{work.tokens} tokens, {work.mode}, {work.kernel} kernel'
    lacks = {p: work.lack(p) for p in parts}
    measured = [p for p in parts if lacks[p] is None]
    tell(f'memory of {name}')
    memory = {p: work.memory(p) for p in measured}
    taken: dict[int, list[tuple[float, float]]] = {p: [] for p in measured}
    for turn, p in product(range(-warmup, repeats), measured):
        times = work.seconds(p)
        if turn >= 0:
            taken[p].append(times)
        step = 'warm-up' if turn < 0 else f'run {turn + 1}/{repeats}'
        tell(f'{step} {name}, P = {p}: {times[0] * 1e3:.1f} ms')
    results = []
    for p in parts:
        result = dict(tokens=work.tokens, mode=work.mode, kernel=work.kernel, parts=p, skipped=lacks[p])
        if p in measured:
            result |= dict(latency=_summary(taken[p], 0), cpu_time=_summary(taken[p], 1), memory=memory[p])
        if p in measured[1:] and parts[0] in measured:
            result['ratio'] = _ratios(result, results[0])
        results.append(result)
    return results


def _summary(taken: Iterable[tuple[float, float]], which: int) -> dict[str, Any]:
    samples = [times[which] for times in taken]
    return dict(asdict(spread(samples)), samples=samples)


def _ratios(result: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """Of one P to the first; times with their intervals, memory plainly."""
    pairs = {key: (result[key]['samples'], first[key]['samples']) for key in ('latency', 'cpu_time')}
    memory = {key: (result['memory'][key], first['memory'][key]) for key in ('tensors', 'resident')}
    return dict(
        to=first['parts'],
        **{key: asdict(paired_ratio(*pair)) for key, pair in pairs.items()},
        **{key: own / base if own else None for key, (own, base) in memory.items()},
    )


def _check(
    tokens: Sequence[int],
    parts: Sequence[int],
    modes: Sequence[str],
    kernels: Sequence[str],
    **counts: tuple[int, int],
) -> None:
    for name, values in dict(tokens=tokens, parts=parts).items():
        if not values or min(values) < 1 or len(set(values)) < len(values):
            raise ValueError(f'{name}={list(values)} should be different numbers of 1 or more')
    for name, values, known in (('modes', modes, MODES), ('kernels', kernels, KERNELS)):
        if not values or not set(values) <= set(known) or len(set(values)) < len(values):
            raise ValueError(f'{name}={list(values)} should be one or more of {", ".join(known)}, each once')
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f'{name}={value} should be {least} or more')


def _check_machine(device: str, threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise ValueError(f'threads={threads} should be 1 or more')
    known = ['cpu', 'cuda', *(f'cuda:{index}' for index in range(torch.cuda.device_count()))]
    if device not in known or (device == 'cuda' and not torch.cuda.is_available()):
        raise ValueError(
            f"device='{device}' is not one that PyTorch can use here: cpu, cuda or cuda:N where there is one"
        )
