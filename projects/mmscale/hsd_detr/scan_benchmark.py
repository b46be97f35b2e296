"""The selective scan's forms side by side: time and peak memory by the number of tokens.

Forms: ``'sequential'`` (token by token), ``'chunked'`` (ours, for use) and, where the package is installed and the
device is a GPU, ``'mamba_ssm'``, the kernel of Mamba-2 (``mamba_chunk_scan_combined``), which computes the same. All
get the same random inputs, with steps and rates from the ranges that training starts with. The runs interleave and
ratios are of neighbouring runs, as in :mod:`mmscale.analysis.benchmark`; memory is measured in runs of its own.

Shape shorthand in this module:
    B: batch, T: tokens, D: heads, P: channels of a head, N: width of the state
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from mmscale.analysis.benchmark_worker import environment
from mmscale.analysis.memory import peak_memory
from mmscale.analysis.statistics import paired_ratio, spread
from mmscale.files import markdown_table

from .selective_scan import ScanInputs, chunked_scan, sequential_scan
from .ss2d import RATES, STEPS

try:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
except ImportError:
    mamba_chunk_scan_combined = None

__all__ = ['FORMS', 'MODES', 'benchmark_scan', 'scan_table']

FORMS = ('sequential', 'chunked', 'mamba_ssm')
MODES = ('predict', 'train')


def benchmark_scan(
    tokens: Sequence[int] = (1024, 4096, 6400, 16384, 25600, 65536),
    forms: Sequence[str] = ('chunked', 'sequential'),
    *,
    modes: Sequence[str] = MODES,
    chunk: int = 32,
    sequential_up_to: int = 65536,
    batch_size: int = 1,
    heads: int = 3,
    head_channels: int = 32,
    state_channels: int = 16,
    repeats: int = 6,
    warmup: int = 1,
    device: str = 'cpu',
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure every form against the first one, at every number of tokens.

    Args:
        tokens (Sequence[int]): Values of T.
        forms (Sequence[str]): Of :data:`FORMS`. Defaults to ``('chunked', 'sequential')``.
        modes (Sequence[str]): ``'predict'``, forward without gradients, or ``'train'``, forward and backward to all
            inputs. Defaults to both.
        chunk (int): Tokens of a chunk, of the chunked forms. Defaults to 32.
        sequential_up_to (int): Longer sequences are not scanned token by token. Defaults to 65536.
        batch_size (int): B. Defaults to 1.
        heads (int): D. Defaults to 3, those of HCSSNet-S at stride 4.
        head_channels (int): P. Defaults to 32.
        state_channels (int): N. Defaults to 16.
        repeats (int): Timed runs of each. Six or more give a 95 % interval. Defaults to 6.
        warmup (int): Runs before, which do not count. Defaults to 1.
        device (str): 'cpu', 'cuda' or 'cuda:1'. Defaults to 'cpu'.
        threads (int, optional): PyTorch's threads on the CPU. Defaults to None, its own choice.
        seed (int): Of the inputs. Defaults to 0.
        progress (Callable, optional): Told each step in a line. Defaults to None.

    Returns:
        dict: ``settings``, ``environment`` and ``results``, one for each T, mode and form, ready for JSON; times in
        seconds, memory in bytes.

    Raises:
        ValueError: If an argument makes no sense.
        ImportError: If ``'mamba_ssm'`` is asked for and not installed.
    """
    for name, values, known in (('forms', forms, FORMS), ('modes', modes, MODES)):
        if not values or not set(values) <= set(known) or len(set(values)) < len(values):
            raise ValueError(f'{name}={list(values)} should be one or more of {", ".join(known)}, each once')
    counts = dict(repeats=repeats, batch_size=batch_size, heads=heads, head_channels=head_channels, chunk=chunk)
    counts |= dict(state_channels=state_channels, threads=1 if threads is None else threads)
    for name, value in (('tokens', min(tokens, default=0)), *counts.items()):
        if value < 1:
            raise ValueError(f'{name}={list(tokens) if name == "tokens" else value} should be 1 or more')
    if warmup < 0:
        raise ValueError(f'warmup={warmup} should be 0 or more')
    if 'mamba_ssm' in forms and mamba_chunk_scan_combined is None:
        raise ImportError('mamba_ssm, whose kernel is asked for, is not installed: pip install mamba-ssm')
    if 'mamba_ssm' in forms and not device.startswith('cuda'):
        raise ValueError(f"device='{device}' cannot run mamba_ssm's kernel, which needs a GPU")
    settings = dict(tokens=list(tokens), forms=list(forms), modes=list(modes), chunk=chunk, batch_size=batch_size)
    settings |= dict(heads=heads, head_channels=head_channels, state_channels=state_channels, repeats=repeats)
    settings |= dict(warmup=warmup, device=device, threads=threads, seed=seed)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        results = []
        for length in tokens:
            torch.manual_seed(seed)
            work = _Work(length, batch_size, heads, head_channels, state_channels, chunk, device)
            used = [form for form in forms if form != 'sequential' or length <= sequential_up_to]
            for mode in modes:
                results += _measure(work, mode, used, forms[0], repeats, warmup, progress or (lambda line: None))
        return dict(settings=settings, environment=environment(device), results=results)
    finally:
        torch.set_num_threads(before)


class _Work(nn.Module):
    """One sequence, and a scan of it in each form."""

    def __init__(self, tokens: int, batch: int, heads: int, width: int, state: int, chunk: int, device: str) -> None:
        super().__init__()
        self.tokens, self.chunk = tokens, chunk
        low, high = (math.log(step) for step in STEPS)
        inputs = dict(
            value=torch.randn(batch, heads, width, tokens),
            query=torch.randn(batch, state, tokens),
            key=torch.randn(batch, state, tokens),
            step=torch.exp(torch.rand(batch, heads, tokens) * (high - low) + low),
            rate=-torch.empty(heads).uniform_(*RATES),
        )
        self.inputs = nn.ParameterDict({name: nn.Parameter(x.to(device)) for name, x in inputs.items()})

    def scan(self, form: str) -> Tensor:
        """``(B, D, P, T)``."""
        value, *rest = (self.inputs[name] for name in ('value', 'query', 'key', 'step', 'rate'))
        if form == 'sequential':
            return sequential_scan(value, ScanInputs(*rest))
        if form == 'chunked':
            return chunked_scan(value, ScanInputs(*rest), chunk=self.chunk)
        query, key, step, rate = rest
        key, query = (x.transpose(1, 2)[:, :, None].contiguous() for x in (key, query))
        value, step = value.permute(0, 3, 1, 2).contiguous(), step.transpose(1, 2).contiguous()
        return mamba_chunk_scan_combined(value, step, rate, key, query, chunk_size=self.chunk).permute(0, 2, 3, 1)

    def run(self, form: str, mode: str) -> None:
        with torch.set_grad_enabled(mode == 'train'):
            out = self.scan(form)
        if mode == 'train':
            out.backward(torch.ones_like(out))
            self.zero_grad(set_to_none=True)

    def seconds(self, form: str, mode: str) -> float:
        synchronize = torch.cuda.synchronize if self.inputs['value'].is_cuda else lambda: None
        synchronize()
        start = time.perf_counter()
        self.run(form, mode)
        synchronize()
        return time.perf_counter() - start


def _measure(
    work: _Work, mode: str, forms: Sequence[str], first: str, repeats: int, warmup: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One result for each form, with its ratio to the first where that was measured."""
    taken: dict[str, list[float]] = {form: [] for form in forms}
    for turn in range(-warmup, repeats):
        for form in forms:
            seconds = work.seconds(form, mode)
            tell(f'{work.tokens} tokens, {mode}, {form}: {seconds * 1e3:.1f} ms')
            if turn >= 0:
                taken[form].append(seconds)
    results = []
    for form in forms:
        memory = peak_memory(lambda form=form: work.run(form, mode), work, work.inputs['value'])
        result = dict(tokens=work.tokens, mode=mode, form=form, memory=memory)
        result['latency'] = dict(asdict(spread(taken[form])), samples=taken[form])
        if form != first and first in taken:
            result['ratio'] = dict(to=first, **asdict(paired_ratio(taken[form], taken[first])))
        results.append(result)
    return results


def scan_table(report: dict[str, Any]) -> str:
    """The report as Markdown: where it ran, then a row for each T, mode and form.

    Args:
        report (dict): Of :func:`benchmark_scan`.
    """
    settings, where = report['settings'], report['environment']
    first = settings['forms'][0]
    head = (
        f'{where["device_name"]} ({where["device"]}, {where["threads"]} threads), torch {where["versions"]["torch"]}, '
        f'batch {settings["batch_size"]}, {settings["heads"]} heads of {settings["head_channels"]}, a state of '
        f'{settings["state_channels"]}, chunks of {settings["chunk"]}; {settings["repeats"]} runs of each after '
        f'{settings["warmup"]}'
    )
    rows = [['tokens', 'pass', 'form', 'median (ms)', 'us per token', f'to {first}', 'interval']]
    rows[0] += ['peak tensors (MB)', 'kB per token']
    for result in report['results']:
        seconds, peak, tokens = result['latency']['median'], result['memory']['tensors'], result['tokens']
        ratio = result.get('ratio')
        row = [str(tokens), result['mode'], result['form'], f'{seconds * 1e3:.1f}', f'{seconds / tokens * 1e6:.2f}']
        row += [f'{ratio["median"]:.1f}', f'{ratio["low"]:.1f} to {ratio["high"]:.1f}'] if ratio else ['', '']
        rows.append([*row, f'{peak / 1e6:.1f}', f'{peak / tokens / 1e3:.2f}'])
    return f'{head}\n\n{markdown_table(rows, right=(0, *range(3, 9)))}'
