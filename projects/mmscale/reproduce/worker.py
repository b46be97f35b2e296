"""One run in a process of its own: trains, resumes where it was cut, tests, and leaves ``run.json``.

``python -m mmscale.reproduce.worker JOB.json``, or the same through torchrun, one process per GPU. The job says what to
do (:class:`mmscale.reproduce.process.Job`); ``config.py`` beside it is the row's config.
"""

import argparse
import math
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmscale.engine import train as engine
from mmscale.engine.checkpoint import compare, latest_checkpoint
from mmscale.engine.cli import UsageError, build_runner, command, is_mistake, say
from mmscale.files import write_json

from .config import fit_schedule
from .record import RunRecordHook, environment, git_state, numbers
from .runs import read_json

__all__ = ['iterations_per_epoch', 'main', 'prepare', 'work']


def prepare(job: dict[str, Any], folder: Path) -> Config:
    """Make the config that the runner is built from, as ``tools/train.py --resume`` makes it.

    Args:
        job (dict): What ``job.json`` holds.
        folder (Path): The run's folder.
    """
    together = job['gpus'] > 1
    arguments = [str(folder / 'job' / 'config.py'), '--work-dir', str(folder)]
    arguments += ['--launcher', 'pytorch' if together else 'none']
    cfg = engine.prepare(engine.build_parser().parse_args(arguments))
    # One seed for weights, order and augmentation. Deterministic kernels are not asked for: several operators of
    # detectors have none on a GPU and would stop the run. On a CPU a seed repeats a run to the last bit.
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=job['seed'])
    if job['keep_checkpoints']:
        cfg.default_hooks.checkpoint.max_keep_ckpts = -1
    fit_schedule(cfg, iterations_per_epoch(cfg, int(os.environ['WORLD_SIZE']) if together else 1))
    return cfg


def iterations_per_epoch(cfg: Config, world_size: int) -> int:
    """Batches of an epoch per process, by a data loader of the training set that is built for this alone.

    Args:
        cfg (Config): With ``train_dataloader``.
        world_size (int): Processes that share an epoch.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    return math.ceil(len(loader) / world_size)


def resume(cfg: Config) -> dict[str, Any] | None:
    """Find the checkpoint to go on from; without one the run starts from the row's own ``load_from``, if any."""
    start, cfg.load_from, cfg.resume = cfg.get('load_from'), None, True
    checkpoint = engine.find_resume(cfg)
    if checkpoint is None:
        cfg.load_from = start
    return checkpoint


def work(job: dict[str, Any], folder: Path) -> None:
    """Do a run, or what is left of it.

    Args:
        job (dict): What ``job.json`` holds.
        folder (Path): The run's folder.

    Raises:
        ValueError: If what is there belongs to another model.
    """
    git = git_state()  # before the code can change under a run of days
    cfg = prepare(job, folder)
    checkpoint = resume(cfg)
    runner = build_runner(cfg)
    if checkpoint is not None and (misfit := compare(runner.model, checkpoint)):
        raise UsageError(f"checkpoint '{cfg.load_from}' belongs to another model than the row: {misfit}")
    del checkpoint
    record = RunRecordHook(folder / 'progress.json')
    runner.register_hook(record)
    runner.train()
    peak_memory = record.largest_memory()
    metrics = runner.test()
    if not is_main_process():
        return
    if not job['keep_checkpoints']:
        remove_old_checkpoints(folder)
    result = dict(
        {key: job[key] for key in ('paper', 'table', 'row', 'seed', 'experiment', 'config_hash', 'settings')},
        git=git,
        metrics=numbers(metrics),
        history=record.history,
        seconds=record.seconds,
        attempts=job['attempts'],
        peak_memory_bytes=peak_memory,
        peak_memory_of='cuda allocated' if torch.cuda.is_available() else 'resident set',
        environment=environment(runner.world_size),
        finished=datetime.now(timezone.utc).isoformat(timespec='seconds'),
    )
    write_json(folder / 'run.json', result)
    (folder / 'failed.json').unlink(missing_ok=True)
    say(f'Finished: {folder / "run.json"}')


def remove_old_checkpoints(folder: Path) -> None:
    """Remove all checkpoints but the last."""
    last, _ = latest_checkpoint(folder)
    for pattern in ('epoch_*.pth', 'iter_*.pth'):
        for path in folder.glob(pattern):
            if path != last:
                path.unlink()


def note_error(error: Exception, folder: Path) -> None:
    """Leave one line on why this process failed; of several, that of the first."""
    line = is_mistake(error) or f'{type(error).__name__}: {error}'
    try:
        with (folder / 'job' / 'error.txt').open('x', encoding='utf-8') as file:
            file.write(' '.join(line.split())[:1000])
    except FileExistsError:
        pass


@command
def main(argv: list[str] | None = None) -> None:
    """Do the run that a job file describes.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    parser = argparse.ArgumentParser(prog='python -m mmscale.reproduce.worker', description=__doc__.splitlines()[0])
    parser.add_argument('job', type=Path, help='job/job.json in the folder of a run')
    file = parser.parse_args(argv).job
    job = read_json(file)
    if job is None:
        raise UsageError(f"job '{file}' does not exist")
    folder = file.resolve().parents[1]
    try:
        work(job, folder)
    except Exception as error:
        note_error(error, folder)
        raise


if __name__ == '__main__':
    main()
