"""Conducts jobs through an executor: in order, as many as there is room for, and tells the user what happens."""

import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from .executors import LocalExecutor, SubmititExecutor
from .process import Job, Outcome
from .runs import WORK_ROOT, Run
from .spec import Table

__all__ = ['conduct', 'show']

POLL = 0.3  # seconds between looks at what runs
BAR = '{desc} |{bar:20}| {n:.1f}/{total} runs [{elapsed}<{remaining}]{postfix}'


def conduct(jobs: Sequence[Job], executor: LocalExecutor | SubmititExecutor, tables: Sequence[Table],
            wait: bool = True) -> int:  # fmt: skip
    """Do what there is to do of the jobs, and sum up.

    Args:
        jobs (Sequence[Job]): In the order in which to start them.
        executor (LocalExecutor | SubmititExecutor): Where they run.
        tables (Sequence[Table]): Theirs, for the names of metrics.
        wait (bool): Whether to stay until all are done. Defaults to True.

    Returns:
        int: The exit code: 0, 1 if a run failed, or 128 and the number of the signal that ended it.
    """
    states = [(job, job.run.state(job.config_hash, job.epochs)) for job in jobs]
    pending = [job for job, state in states if state.kind not in ('finished', 'stale')]
    before = sum(state.kind == 'finished' for _, state in states)
    print(f'{count(len(jobs), "run")}, {before} of them finished before')
    for job, state in states:
        if state.kind not in ('finished', 'new'):
            print(f'{job.run.title}: {state.text}')
    if not wait and pending:
        numbers = executor.submit_all(pending)
        submitted = f'{count(len(numbers), "run")} as jobs {numbers[0]} to {numbers[-1]}'
        print(f'Submitted {submitted}. What is finished: the same command with --dry-run. The results:')
        print(report_command(jobs[0].run))
        return 0
    outcomes: list[Outcome] = []
    with signals_noted() as signals:
        try:
            follow(pending, executor, tables, outcomes, signals)
        finally:
            if executor.running:
                left = count(len(executor.running), 'run')
                print(f'\nEnding {left}, to be resumed from the last whole epoch next time.', flush=True)
            executor.close()
    stale = [job for job, state in states if state.kind == 'stale']
    summarise(jobs, outcomes, stale)
    if signals:
        return 128 + signals[0]
    return 1 if any(outcome.kind == 'failed' for outcome in outcomes) else 0


def follow(pending: list[Job], executor: LocalExecutor | SubmititExecutor, tables: Sequence[Table],
           outcomes: list[Outcome], signals: list[int]) -> None:  # fmt: skip
    """Start the jobs as there is room, and wait for the last of them.

    Args:
        pending (list[Job]): To be done.
        executor (LocalExecutor | SubmititExecutor): Where they run.
        tables (Sequence[Table]): Theirs.
        outcomes (list[Outcome]): Gets what became of them as soon as it is known.
        signals (list[int]): Gets the signals that ask for an end.
    """
    waiting, by_name = list(pending), {table.name: table for table in tables}
    with tqdm(total=len(pending), desc='train', bar_format=BAR, disable=None) as bar:  # on a terminal only
        while (waiting or executor.running) and not signals:
            while waiting and executor.has_room() and not signals:
                job = waiting.pop(0)
                bar.write(f'{job.run.title}: starts', file=sys.stdout)
                executor.start(job)
            for outcome in executor.finished():
                outcomes.append(outcome)
                run = outcome.job.run
                bar.write(f'{run.title}: {describe(outcome, by_name[f"{run.paper}/{run.table}"])}', file=sys.stdout)
            if not bar.disable:
                update(bar, len(outcomes), executor.running)
            sys.stdout.flush()
            if waiting or executor.running:
                time.sleep(POLL)


def update(bar: tqdm, done: int, running: list[Job]) -> None:
    """Show how far the runs are, by what they note after every epoch."""
    texts = []
    for job in running:
        progress = job.run.read('progress.json') or {}
        epoch, epochs = progress.get('epoch', 0), progress.get('epochs')
        if epochs:
            done += epoch / epochs
            texts.append(f'{job.run.row}/{job.run.seed} {epoch:.3g}/{epochs:.3g}')
    bar.n = min(done, bar.total)
    bar.set_postfix_str(', '.join(texts[:4]) + (', ...' if len(texts) > 4 else ''), refresh=True)


def describe(outcome: Outcome, table: Table) -> str:
    """What became of a run, in half a line."""
    if outcome.kind == 'busy':
        return f'left alone, {outcome.error}'
    if outcome.kind == 'failed':
        return f'FAILED, {outcome.error}'
    result: dict[str, Any] = outcome.job.run.read('run.json') or {}
    column = table.main_metric
    value = result.get('metrics', {}).get(table.metrics[column])
    figure = 'no ' + table.metrics[column] if value is None else f'{column} {value * table.scale.get(column, 1):.4g}'
    again = f', {result["attempts"]} attempts' if result.get('attempts', 1) > 1 else ''
    by = ' by another process' if outcome.kind == 'passed' else ''
    return f'finished{by}, {figure}, {duration(result.get("seconds", 0))} of training{again}'


def count(number: int, thing: str) -> str:
    """A number of things, in the plural where there are several."""
    return f'{number} {thing}{"" if number == 1 else "s"}'


def duration(seconds: float) -> str:
    """A time for a reader.

    Example:
        >>> duration(4.21), duration(200), duration(7300)
        ('4.2 s', '3 min 20 s', '2 h 01 min')
    """
    if seconds < 60:
        return f'{seconds:.1f} s'
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes} min {rest:02} s' if minutes < 60 else f'{minutes // 60} h {minutes % 60:02} min'


def summarise(jobs: Sequence[Job], outcomes: Sequence[Outcome], stale: Sequence[Job]) -> None:
    """What there is now, what failed and why, and what to type next."""
    failed = [outcome for outcome in outcomes if outcome.kind == 'failed']
    finished = sum(job.run.state(job.config_hash, job.epochs).kind == 'finished' for job in jobs)
    parts = [f'{finished} of {count(len(jobs), "run")} finished']
    parts += [f'{len(failed)} failed'] if failed else []
    parts += [f'{len(stale)} of another config'] if stale else []
    print(f'\n{", ".join(parts)}.')
    for outcome in failed:
        print(f'FAILED {outcome.job.run.title}: {outcome.error}\n    log: {outcome.job.run.log}')
    if stale:
        rows = ' '.join(dict.fromkeys(job.run.row for job in stale))
        print(f'Their rows changed since they were run; to discard and run them anew: --rows {rows} --redo')
    if finished or stale:
        for run in {(job.run.paper, job.run.table): job.run for job in jobs}.values():
            print(report_command(run))
    sys.stdout.flush()


def show(runs: Sequence[tuple[Run, Any]], redo: bool = False) -> None:
    """``--dry-run``: what would be done about every run.

    Args:
        runs (Sequence[tuple[Run, Item]]): The runs, in their order.
        redo (bool): Whether they are to be run anew. Defaults to False.
    """
    width = max(len(run.title) for run, _ in runs)
    for run, item in runs:
        text = run.state(item.hash, item.epochs).text
        if redo and text != 'new':
            text += ', would be discarded and run anew'
        if holder := run.lock().holder():
            text += f' ({holder} works on it)'
        print(f'{run.title:<{width}}  {text}')


def report_command(run: Run) -> str:
    """What to type to see the results."""
    program = shlex.quote(sys.argv[0]) if sys.argv[0].endswith('reproduce.py') else '-m mmscale.reproduce'
    root = '' if run.root == WORK_ROOT else f' --work-root {shlex.quote(str(run.root))}'
    return f'python {program} report {run.paper}/{run.table} --name {run.experiment}{root}'


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Ctrl-C, a polite end or a closed terminal is noted and acted upon between two steps, never within one.

    A process that is just being started can then not be lost from sight, nor an end be cut short.

    Yields:
        list[int]: The signals so far.
    """
    noted: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: noted.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN  # as under nohup
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
