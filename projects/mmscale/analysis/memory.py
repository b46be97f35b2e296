"""Peak memory of one call.

Two figures, because they answer different questions:

- **Tensors alive** at the peak: weights and inputs, and on top of them what the call allocated through PyTorch and had
  not yet freed. On CUDA it is ``torch.cuda.max_memory_allocated``; on a CPU the same is summed up from the profiler's
  record of PyTorch's CPU allocator, convolutions' reordered copies included. It is the same in every run and does not
  depend on what ran before in the process. Python, libraries and what they take from the system themselves are not in
  it.
- **Resident memory** of the process at the peak, as the operating system sees it (CPU only). It holds libraries, caches
  and the C allocator's reserves as well, so it is larger, and it varies by a few per cent from run to run. Before the
  call, free pages are handed back (``malloc_trim``) and the kernel's high-water mark is reset
  (``/proc/self/clear_refs``). Where either is not possible, the mark stands for the process's whole life.
"""
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

__all__ = ['allocated_peak', 'peak_memory', 'resident_peak']


def peak_memory(call: Callable[[], Any], model: nn.Module, inputs: torch.Tensor) -> dict[str, int | bool | None]:
    """Measures both peaks of ``call()``, each in a call of its own.

    Args:
        call (Callable): Runs the model.
        model (nn.Module): Whose weights and buffers are alive.
        inputs (Tensor): The batch that is alive.

    Returns:
        dict: ``tensors`` and ``resident`` in bytes, ``weights`` in bytes (parameters and buffers), and
        ``resident_is_reset``: whether the high-water mark was reset before. ``resident`` is None on CUDA.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    if inputs.device.type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return dict(tensors=torch.cuda.max_memory_allocated(), weights=weights, resident=None, resident_is_reset=None)
    resident, is_reset = resident_peak(call)
    alive = weights + inputs.numel() * inputs.element_size()
    return dict(tensors=alive + allocated_peak(call), weights=weights, resident=resident, resident_is_reset=is_reset)


def allocated_peak(call: Callable[[], Any]) -> int:
    """Bytes that ``call()`` allocated on the CPU through PyTorch and held at once, at most.

    Example:
        >>> import torch
        >>> allocated_peak(lambda: torch.empty(1000))
        4000
    """
    gc.collect()
    record = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _no_stderr():
        record.start()
    try:
        result = call()
    finally:
        with _no_stderr():
            record.stop()
    del result
    events = [event for event in record.profiler.kineto_results.events() if event.name() == '[memory]']
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


@contextmanager
def _no_stderr() -> Iterator[None]:
    """The profiler writes a line to the process's stderr, past Python, whenever it starts or stops."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def resident_peak(call: Callable[[], Any]) -> tuple[int, bool]:
    """The process's resident memory at its peak in bytes, and whether the mark was reset before ``call()``."""
    gc.collect()
    is_reset = _reset_high_water_mark()
    result = call()
    del result
    return high_water_mark(), is_reset


def _reset_high_water_mark() -> bool:
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')
    except (OSError, AttributeError):
        return False
    return True


def high_water_mark() -> int:
    """The most resident memory that this process ever had, in bytes."""
    try:
        status = Path('/proc/self/status').read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith('VmHWM:'))
    except (OSError, StopIteration):
        import resource  # a platform without /proc
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == 'darwin' else peak * 1024
