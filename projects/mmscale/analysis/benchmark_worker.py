"""One config of a benchmark in a process of its own: builds, and runs when told to.

The parent sends one word at a time through a pipe and waits for the answer, so that only one worker computes:

======== =========================================================================
word     answer
======== =========================================================================
build    a description: parameters, network input, pinned proposals, environment
run      seconds of one run: passed, and spent by the process on all its cores
memory   what :func:`mmscale.analysis.memory.peak_memory` found
stop     none; the process ends
======== =========================================================================

An answer is ``('done', value)`` or ``('failed', (sentence, traceback))``. A closed pipe ends the worker as well, so
none outlives its parent.
"""
import platform
import signal
import time
import traceback
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .memory import peak_memory
from .model import build_model, load_config, random_batch
from .proposals import pinned_proposals

__all__ = ['MODES', 'Job', 'serve']

MODES = ('tensor', 'predict', 'backbone-neck', 'train')
OBJECTS = 12  # in every image of a training step


@dataclass(frozen=True)
class Job:
    """What one worker measures; the fields are those of :func:`mmscale.analysis.benchmark.benchmark`."""

    config: Any
    input_size: tuple[int, int]
    batch_size: int
    device: str
    threads: int | None
    mode: str
    compile: bool
    amp: bool
    pin_proposals: bool
    cfg_options: dict | None
    seed: int


def serve(job: Job, pipe: Any) -> None:
    """Answers the parent until it says stop or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends its workers
    bench = None
    try:
        while (word := pipe.recv()) != 'stop':
            try:
                if word == 'build':
                    bench = _Bench(job)
                    answer = bench.describe()
                else:
                    answer = getattr(bench, word)()
            except Exception as error:
                sentence = f'{type(error).__name__}: {error}'.splitlines()[0]
                pipe.send(('failed', (sentence, traceback.format_exc())))
                return
            pipe.send(('done', answer))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class _Bench:
    """A model and its batch, and one forward of it, or one training step without the optimizer's."""

    def __init__(self, job: Job) -> None:
        if job.threads:
            torch.set_num_threads(job.threads)
        self.job = job
        self.model = build_model(load_config(job.config, job.cfg_options), job.device, job.seed)
        objects = OBJECTS if job.mode == 'train' else 0
        self.inputs, self.samples = random_batch(self.model, job.input_size, job.batch_size, job.seed, objects)
        self.model.train(job.mode == 'train')
        self.stack, self.proposals = ExitStack(), None  # proposals stay pinned as long as the worker lives
        if job.pin_proposals and job.mode not in ('backbone-neck', 'train'):
            pinned = pinned_proposals(self.model, tuple(self.inputs.shape[-2:]), job.seed)
            self.proposals = self.stack.enter_context(pinned)
        if job.compile:
            _compile(self.model)
        self.synchronize = torch.cuda.synchronize if self.inputs.is_cuda else lambda: None

    def describe(self) -> dict[str, Any]:
        return dict(params=sum(parameter.numel() for parameter in self.model.parameters()),
                    network_input=list(self.inputs.shape), proposals=self.proposals,
                    environment=environment(self.job.device))

    def run(self) -> tuple[float, float]:
        self.synchronize()
        start, spent = time.perf_counter(), time.process_time()
        self._forward()
        self.synchronize()
        return time.perf_counter() - start, time.process_time() - spent

    def memory(self) -> dict[str, Any]:
        return peak_memory(self._forward, self.model, self.inputs)

    def _forward(self) -> Any:
        device = self.inputs.device.type
        amp = torch.autocast(device) if self.job.amp else nullcontext()
        if self.job.mode == 'train':
            self.model.zero_grad()
            with amp:
                losses = self.model(self.inputs, self.samples, mode='loss')
            return self.model.parse_losses(losses)[0].backward()
        with torch.no_grad(), amp:
            if self.job.mode == 'backbone-neck':
                return self.model.extract_feat(self.inputs)
            return self.model(self.inputs, self.samples, mode=self.job.mode)


def _compile(model: nn.Module) -> None:
    """Compiles backbone, neck and heads in place.

    The detector's own forward, and a RoI head's, read data samples and branch on them; what they call works on tensors.
    """
    for name, child in model.named_children():
        if name == 'roi_head' or isinstance(child, nn.ModuleList):
            _compile(child)
        elif name != 'data_preprocessor':
            child.compile()


def environment(device: str) -> dict[str, Any]:
    """What a reader must know to compare timings."""
    versions = {}
    for package in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmyolo'):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    if device.startswith('cuda'):
        name = torch.cuda.get_device_name(device)
        versions.update(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    else:
        name = _cpu_name()
    return dict(device=device, device_name=name, threads=torch.get_num_threads(), python=platform.python_version(),
                system=f'{platform.system()} {platform.machine()}', versions=versions)


def _cpu_name() -> str:
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
