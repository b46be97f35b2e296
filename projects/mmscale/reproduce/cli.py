"""``tools/reproduce.py``: list, show, check, complexity, speed, train, report. Each imports what it needs."""

import argparse
import shlex
import sys
from pathlib import Path

from .spec import CONVENTIONS, COSTS, Row, SpecError, Table, as_printed, find, load_papers, papers_of

__all__ = ['build_parser', 'main']


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    from . import report, speed, train

    parser = argparse.ArgumentParser(
        prog='reproduce.py',
        description='The tables of the papers: what they print, what '
        'their rows cost here, and what they reach on your data',
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    command = commands.add_parser('list', help='all papers and their tables')
    command.add_argument('paper', nargs='?', help="one paper's folder, for instance fine")
    command.set_defaults(run=list_tables)

    command = commands.add_parser('show', help="rows of a table with the paper's figures")
    command.add_argument('target', help='a table such as fine/table4, or all of a paper: fine')
    command.set_defaults(run=show)

    command = commands.add_parser('check', help='build the config of every row and check its overrides')
    command.add_argument('target', nargs='?', help='a paper or a table; all papers by default')
    command.set_defaults(run=check)

    command = commands.add_parser('complexity', help="parameters and operations of every row beside the paper's")
    command.add_argument('target', help='a paper or a table')
    command.add_argument(
        '--rows', nargs='+', metavar='ROW', help='only these and their baselines (`show` has the names)'
    )
    command.add_argument(
        '--jobs', type=int, metavar='N', help='processes (default: as many as are worth it: one per core, 8 at most)'
    )
    command.add_argument('--json', type=Path, metavar='FILE', help='also write the figures and operators to this file')
    command.add_argument('--out', type=Path, metavar='FILE.md', help='also write the tables to this file')
    command.set_defaults(run=complexity)

    speed.add_parser(commands)
    train.add_parser(commands)
    report.add_parser(commands)
    return parser


def list_tables(args: argparse.Namespace) -> None:
    """Print every paper with its tables."""
    for paper in papers_of(args.paper):
        print(f'{paper.title}\n    {paper.reference}')
        for table in paper.tables.values():
            ready = len(table.select())
            rows = f'{len(table.rows)} rows' + ('' if ready == len(table.rows) else f', {ready} of them ready')
            print(f'  {table.name:<24} {table.source}: {table.title} ({rows})')


def show(args: argparse.Namespace) -> None:
    """Print rows with the paper's figures."""
    for table in find(args.target):
        print(describe(table), end='\n\n')


def describe(table: Table) -> str:
    """A table as the paper prints it, and how its rows are built here."""
    from mmscale.files import markdown_table

    columns = [
        *table.columns_of_cost(),
        *table.metrics,
        *([table.speed.column] if table.speed else []),
        *table.unmeasured,
    ]
    columns = [column for column in columns if any(column in row.paper for row in table.rows)]
    unit = 'GMACs' if table.counting and table.counting.flops == 'macs' else 'GFLOPs'
    heads = dict(zip(COSTS, ('params (M)', unit, '+ params (M)', f'+ {unit}'), strict=True))
    rows = [['row', 'name', *(heads.get(column, column) for column in columns), 'built from']]
    for row in table.rows:
        rows.append([row.label, row.name, *(_figure(row, column) for column in columns), _built_from(row)])
    lines = [
        f'{table.name}: {table.title} ({table.source})',
        '',
        markdown_table(rows, right=range(2, 2 + len(columns))),
        '',
        f"The paper's recipe: {table.recipe_paper}",
        f'Ours: {table.recipe_ours}',
    ]
    if table.counting:
        height, width = table.counting.input_size
        lines.append(f'Counted at {height}x{width} (height x width), {CONVENTIONS[table.counting.flops]}.')
    lines.append('Measured: ' + ', '.join(f'{column} = {name}' for column, name in table.metrics.items()))
    if table.speed:
        lines.append(
            f"{table.speed.column}: the paper's on {table.speed.paper}; `speed {table.name}` measures them here."
        )
    lines += [f"{column}: the paper's alone; {why}" for column, why in table.unmeasured.items()]
    lines += [f'{row.label}: {row.note}' for row in table.rows if row.note]
    return '\n'.join(lines)


def _figure(row: Row, column: str) -> str:
    if column not in row.paper:
        return ''
    before = f'{as_printed(row.paper_baseline[column])} -> ' if column in row.paper_baseline else ''
    return before + as_printed(row.paper[column])


def _built_from(row: Row) -> str:
    if row.quoted:
        return 'quoted only'
    if row.waits_for:
        return f'waits for {row.waits_for}'
    name = row.config if '::' in row.config else Path(row.config).name
    return ', '.join([name, *(f'{key}={value}' for key, value in row.set.items())])


def check(args: argparse.Namespace) -> None:
    """Build every row's config; report all that do not fit, and those that wait for a package."""
    from .config import count_config, row_config
    from .optional import describe_waiting, mark_waiting, require_some

    tables = (
        find(args.target) if args.target else [t for paper in load_papers().values() for t in paper.tables.values()]
    )
    tables = [mark_waiting(table) for table in tables]
    require_some(tables)
    waiting = [sentence for table in tables for sentence in describe_waiting(table)]
    wrong = []
    for table in tables:
        for row in table.select():
            try:
                row_config(table, row)
                count_config(table, row)
            except ValueError as error:
                wrong.append(str(error))
    for sentence in waiting:
        print(f'skipped: {sentence}')
    for sentence in wrong:
        print(f'error: {sentence}', file=sys.stderr)
    if wrong:
        sys.exit(2)
    rows = sum(len(table.select()) for table in tables)
    print(f'{rows} rows in {len(tables)} tables: every override fits its config.')


def complexity(args: argparse.Namespace) -> None:
    """Count rows and print them beside the paper's figures."""
    from mmscale.files import write_json, write_text

    from .complexity import count, to_json, to_markdown

    tables = [table for table in find(args.target) if table.counting]
    if not tables:
        raise SpecError(f"'{args.target}' has no table that states how its operations are counted")
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f'--jobs {args.jobs} should be 1 or more')
    if args.rows and len(tables) > 1:
        raise ValueError(f"--rows needs one table: '{args.target}' has {', '.join(table.name for table in tables)}")
    counted = count(tables, args.jobs, progress=sys.stderr.isatty(), names=args.rows)
    text = '\n\n'.join(to_markdown(table, counted[table.name]) for table in tables)
    print(text)
    if args.out:
        words = [args.target, *(['--rows', *args.rows] if args.rows else []), '--out', str(args.out)]
        command = f'python tools/reproduce.py complexity {shlex.join(words)}'
        title = f"# {args.target}: parameters and operations beside the paper's"
        write_text(args.out, f'{title}\n\nMade by `{command}`. Conventions: docs/analysis.md.\n\n{text}\n')
    if args.json:
        write_json(args.json, [to_json(table, counted[table.name]) for table in tables])
    failed = [f'{table.name}/{cost.row.name}' for table in tables for cost in counted[table.name] if cost.error]
    if failed:
        print(f'error: {len(failed)} rows could not be counted: {", ".join(failed)}', file=sys.stderr)
        sys.exit(1)


def main(argv: list[str] | None = None) -> None:
    """Run a command; a user's mistake is one line and exit code 2."""
    args = build_parser().parse_args(argv)
    if args.command in ('list', 'show'):  # without torch, below a second
        try:
            args.run(args)
        except (ValueError, FileNotFoundError) as error:
            print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
            sys.exit(2)
        except BrokenPipeError:  # `| head`
            sys.stderr.close()
        return
    from mmscale.engine.cli import command

    command(lambda _: args.run(args))(argv)
