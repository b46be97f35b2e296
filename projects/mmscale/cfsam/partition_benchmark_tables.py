"""The report of :func:`mmscale.cfsam.partition_benchmark.benchmark_partition` for a reader: tables, then sentences."""

from collections.abc import Iterator
from typing import Any

from mmscale.files import markdown_table

__all__ = ['partition_tables']

PASSES = {'predict': 'forward', 'train': 'forward + backward'}


def partition_tables(report: dict[str, Any]) -> str:
    """Markdown: where it ran, multiply-adds, times and memory, what was left out, and what is below the first P.

    Args:
        report (dict): The report.
    """
    settings, where = report['settings'], report['environment']
    runs = f'{settings["repeats"]} runs of each after {settings["warmup"]}'
    blocks = [
        f'{where["device_name"]} ({where["device"]}, {where["threads"]} threads), torch {where["versions"]["torch"]}, '
        f'batch {settings["batch_size"]}, {runs}',
        _costs(report['costs'], settings['parts'][0]),
        _measured(report['results'], settings['parts'][0]),
        '\n'.join(_skipped(report['results'])),
        '\n'.join(_verdicts(report['results'], settings['parts'])),
    ]
    return '\n\n'.join(block for block in blocks if block)


def _costs(costs: list[dict[str, int]], first: int) -> str:
    base = {cost['tokens']: cost for cost in costs if cost['parts'] == first}
    rows = [['tokens', 'P', 'attention (GMACs)', 'the rest', 'all', f'all, to P = {first}']]
    for cost in costs:
        macs, attention = cost['macs'], cost['attention']
        giga = [f'{value / 1e9:.3f}' for value in (attention, macs - attention, macs)]
        rows.append([str(cost['tokens']), str(cost['parts']), *giga, f'{macs / base[cost["tokens"]]["macs"]:.3f}'])
    return markdown_table(rows, right=range(6))


def _measured(results: list[dict[str, Any]], first: int) -> str:
    rows = [['tokens', 'pass', 'kernel', 'P', 'median (ms)', f'to P = {first}', 'interval', 'CPU time']]
    rows[0] += ['peak tensors (MB)', f'to P = {first}', 'peak resident (MB)']
    for result in results:
        row = [str(result['tokens']), PASSES[result['mode']], result['kernel'], str(result['parts'])]
        rows.append(row + ([''] * 7 if result['skipped'] else _numbers(result)))
    return markdown_table(rows, right=(0, *range(3, 11)))


def _numbers(result: dict[str, Any]) -> list[str]:
    """The cells of a row after its name."""
    latency, memory = result['latency'], result['memory']
    cells = dict(time=f'{latency["median"] * 1e3:.1f}', ratio='', interval='', cpu='')
    cells |= dict(tensors=f'{memory["tensors"] / 1e6:.1f}', share='', resident='')
    if memory['resident'] is not None:
        cells['resident'] = f'{memory["resident"] / 1e6:.1f}'
    if ratio := result.get('ratio'):
        time = ratio['latency']
        cells['ratio'] = f'{time["median"]:.3f}'
        cells['interval'] = f'{time["low"]:.3f} - {time["high"]:.3f} ({time["confidence"]:.1%})'
        cells['cpu'] = f'{ratio["cpu_time"]["median"]:.3f}'
        cells['share'] = f'{ratio["tensors"]:.3f}'
    return list(cells.values())


def _skipped(results: list[dict[str, Any]]) -> Iterator[str]:
    for result in results:
        if result['skipped']:
            name = f'{result["tokens"]} tokens, {PASSES[result["mode"]]}, {result["kernel"]} kernel'
            yield f'- {name}, P = {result["parts"]}: {result["skipped"]}'


def _verdicts(results: list[dict[str, Any]], parts: list[int]) -> Iterator[str]:
    """For each P after the first: in how many rows it is below, in how many above."""
    for p in parts[1:]:
        ratios = [result['ratio'] for result in results if result['parts'] == p and 'ratio' in result]
        if ratios:
            times = [(ratio['latency']['low'], ratio['latency']['high']) for ratio in ratios]
            peaks = [(round(ratio['tensors'], 3),) * 2 for ratio in ratios]
            told = f'time {_sides(times, "not to be told apart")}; peak of tensors {_sides(peaks, "equal")}'
            yield f'- P = {p} beside P = {parts[0]}, of {len(ratios)} rows: {told}'


def _sides(intervals: list[tuple[float, float]], neither: str) -> str:
    """How many ratios lie below 1 with their whole interval, how many above."""
    below, above = sum(high < 1 for _, high in intervals), sum(low > 1 for low, _ in intervals)
    return f'below in {below}, {neither} in {len(intervals) - below - above}, above in {above}'
