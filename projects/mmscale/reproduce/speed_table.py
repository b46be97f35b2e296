"""The speed of a table's rows as Markdown, with how to read it, and for a program."""

from dataclasses import asdict
from typing import Any

from mmscale.analysis.benchmark import benchmark_table
from mmscale.files import markdown_table

from .spec import Table, as_printed
from .speed import Speeds, Timing

__all__ = ['to_json', 'to_markdown']

HOW = {
    'tensor': 'the network without the last post-processing',
    'predict': 'all the way to boxes. What an NMS gets from random weights is chance, and no trained detector finds it',
    'backbone-neck': 'feature extraction alone',
}


def to_markdown(speeds: Speeds) -> str:
    """The measurement as Markdown, and how to read it."""
    table, timings = speeds.table, speeds.timings
    references = list(dict.fromkeys(timing.against for timing in timings if timing.ratio))
    ratio = next((timing.ratio for timing in timings if timing.ratio), None)
    interval = f'{ratio.confidence:.1%} interval'.replace('%', ' %') if ratio else 'interval'
    lines = [_line(table, timing, interval) for timing in timings]
    heads = list(lines[0])
    if len(references) < 2:
        heads.remove('against')
    if speeds.report['settings']['device'] != 'cpu':  # there it is the host's share
        heads.remove('CPU time to baseline')
    if not any(timing.paper is not None for timing in timings):
        heads = [head for head in heads if not head.startswith("paper's")]
    cells = [heads, *([line[head] for head in heads] for line in lines)]
    how = benchmark_table(speeds.report).partition('\n\n')[0].replace('\n', '; ')
    return '\n'.join(
        [
            f'## {table.name}: {table.title}',
            '',
            f'{table.source}. Measured on {how}.',
            '',
            markdown_table(cells, right=range(heads.index('FPS'), len(heads))),
            '',
            *_how_to_read(speeds, references),
            *_notes(speeds),
        ]
    )


def _line(table: Table, timing: Timing, interval: str) -> dict[str, str]:
    result, ratio = timing.result, timing.ratio
    against = '' if timing.against is None else table.row(timing.against).label
    line = dict(row=timing.row.label, against=against)
    line['FPS'] = '' if result is None else _short(result['throughput'])
    line["paper's FPS"] = '' if timing.paper is None else as_printed(timing.paper)
    line['ms'] = '' if result is None else _short(result['latency']['median'] * 1e3)
    line['time to baseline'] = '' if ratio is None else f'{ratio.median:.3f}'
    line[interval] = ''
    if ratio is not None:
        line[interval] = f'{ratio.low:.3f} to {ratio.high:.3f}' if ratio.confidence else 'none'
    line['CPU time to baseline'] = '' if timing.cpu_ratio is None else f'{timing.cpu_ratio.median:.3f}'
    line["paper's time to baseline"] = '' if timing.paper_ratio is None else f'{timing.paper_ratio:.3f}'
    line['peak memory (MB)'] = '' if result is None else f'{result["memory"]["tensors"] / 1e6:.1f}'
    return line


def _short(value: float) -> str:
    return f'{value:.1f}' if value >= 10 else f'{value:.2f}'


def _how_to_read(speeds: Speeds, references: list[str]) -> list[str]:
    table, mode = speeds.table, speeds.report['settings']['mode']
    base = f'that of {table.row(references[0]).label}' if len(references) == 1 else "its baseline's"
    pairs = 'rounds' if speeds.report['settings']['rounds'] > 1 else 'runs'
    lines = [f"- Time to baseline: the row's time over {base}, median of paired {pairs}; below 1 is faster."]
    if any(timing.paper is not None for timing in speeds.timings):
        lines.append(
            f"- The paper's FPS are of {table.speed.paper}. Frames per second of two machines are not comparable: "
            'compare the times to the baseline.'
        )
    if speeds.report['settings']['device'] == 'cpu':
        lines.append('- CPU time: what the process spent on all cores; on a machine that others use, read this one.')
    return [
        *lines,
        f'- Mode {mode}: {HOW[mode]}. The weights are random.',
        '- Peak memory: what is alive at once, of weights, images and activations.',
    ]


def _notes(speeds: Speeds) -> list[str]:
    rows = [timing.row for timing in speeds.timings]
    lines = [f'- {row.label}: quoted by the paper, no code here' for row in rows if row.quoted]
    lines += [f'- {row.label}: waits for {row.waits_for}' for row in rows if row.waits_for]
    return lines + [f'- {row.label}: {row.note}' for row in rows if row.note]


def to_json(speeds: Speeds) -> dict[str, Any]:
    """The same for a program, with all that the benchmark measured."""
    table = speeds.table
    return dict(
        table=table.name,
        title=table.title,
        source=table.source,
        speed=None if table.speed is None else asdict(table.speed),
        rows=[
            dict(
                name=timing.row.name,
                label=timing.row.label,
                against=timing.against,
                fps=timing.result and timing.result['throughput'],
                paper_fps=timing.paper,
                time_ratio=timing.ratio and asdict(timing.ratio),
                cpu_time_ratio=timing.cpu_ratio and asdict(timing.cpu_ratio),
                paper_time_ratio=timing.paper_ratio,
            )
            for timing in speeds.timings
        ],
        benchmark=speeds.report,
    )
