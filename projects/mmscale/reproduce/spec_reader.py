"""Reads ``tables.yml``: plain YAML in, the dataclasses of :mod:`mmscale.reproduce.spec` out, or one sentence."""

import difflib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from .spec import CONVENTIONS, COSTS, MODES, NAME, TASKS, Counting, Paper, Row, SpecError, Speed, Table, no_such

__all__ = ['SpecReader']


class UniqueKeys(yaml.SafeLoader):
    """YAML where the same key twice is a mistake: PyYAML keeps the last one in silence."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)):
                raise yaml.constructor.ConstructorError(None, None, f'{key} is no name', key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


TABLE_KEYS = dict(
    required=('title', 'source', 'recipe', 'task', 'metrics', 'rows'),
    optional=(
        'base',
        'baseline',
        'scale',
        'lower_is_better',
        'unmeasured',
        'evaluators',
        'flops',
        'input_size',
        'tolerance',
        'speed',
    ),
)
ROW_KEYS = dict(
    required=('name', 'label'),
    optional=(
        'config',
        'dataset',
        'set',
        'count_set',
        'count_only',
        'paper',
        'paper_baseline',
        'baseline',
        'quoted',
        'waits_for',
        'note',
    ),
)


class SpecReader:
    """Turns plain YAML into the dataclasses; ``where`` is the place that an error names."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def fail(self, where: str, sentence: str) -> SpecError:
        return SpecError(f'{self.file}: {where}: {sentence}')

    def paper(self) -> Paper:
        """Read the whole file."""
        try:
            content = yaml.load(self.file.read_text(encoding='utf-8'), UniqueKeys)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SpecError(f'{self.file}: is not YAML: {" ".join(str(error).split())}') from error
        top = self.mapping(content, 'the file', required=('title', 'reference', 'tables'))
        tables = self.mapping(top['tables'], "'tables'", known=None)
        return Paper(
            self.file.parent.name,
            self.text(top, 'title', 'the file'),
            self.text(top, 'reference', 'the file'),
            {key: self.table(key, value) for key, value in tables.items()},
        )

    def mapping(
        self,
        value: Any,
        where: str,
        required: Iterable[str] = (),
        optional: Iterable[str] = (),
        known: bool | None = True,
    ) -> dict:
        """A mapping with text keys; with ``known``, no other keys than those given."""
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.fail(where, f'should map names to values, but is {_short(value)}')
        if known:
            names = [*required, *optional]
            for key in value:
                if key not in names:
                    raise self.fail(where, no_such('there is no key', key, names))
        for key in required:
            if key not in value:
                raise self.fail(where, f"the key '{key}' is missing")
        return value

    def text(self, values: dict, key: str, where: str, default: str | None = None) -> str | None:
        value = values.get(key, default)
        if value is not default and (not isinstance(value, str) or not value.strip()):
            raise self.fail(where, f"'{key}' should be a text, but is {_short(value)}")
        return value if value is None else ' '.join(value.split())

    def numbers(self, values: dict, key: str, where: str, columns: Iterable[str]) -> dict[str, float]:
        columns, found = list(columns), values.get(key, {})
        self.mapping(found, f"{where}, '{key}'", known=None)
        for column, number in found.items():
            if column not in columns:
                raise self.fail(where, no_such(f"'{key}' has no column", column, columns))
            if type(number) not in (int, float) or not math.isfinite(number):
                raise self.fail(where, f"'{key}.{column}' should be a number, but is {_short(number)}")
        return {column: float(number) for column, number in found.items()}

    def table(self, key: str, value: Any) -> Table:
        where = f"table '{key}'"
        if not NAME.fullmatch(key):
            raise self.fail(where, 'its name should be letters, digits, ".", "_" and "-"')
        values = self.mapping(value, where, **TABLE_KEYS)
        recipe = self.mapping(values['recipe'], f"{where}, 'recipe'", required=('paper', 'ours'))
        task = values['task']
        if task not in TASKS:
            raise self.fail(where, f"'task' should be one of {', '.join(TASKS)}, but is {_short(task)}")
        metrics = self.mapping(values['metrics'], f"{where}, 'metrics'", known=None)
        if not metrics or not all(isinstance(name, str) and name for name in metrics.values()):
            raise self.fail(where, f"'metrics' should map columns to names of metrics, but is {_short(metrics)}")
        if clash := [column for column in metrics if column in COSTS]:
            raise self.fail(where, f"'metrics' has the column '{clash[0]}', which is a cost's name")
        lower = values.get('lower_is_better', [])
        if not isinstance(lower, list) or not all(isinstance(column, str) and column in metrics for column in lower):
            raise self.fail(where, f"'lower_is_better' should list columns of 'metrics', but is {_short(lower)}")
        unmeasured = self.mapping(values.get('unmeasured', {}), f"{where}, 'unmeasured'", known=None)
        unmeasured = {column: self.text(unmeasured, column, f"{where}, 'unmeasured'") for column in unmeasured}
        if clash := [column for column in unmeasured if column in (*COSTS, *metrics)]:
            raise self.fail(where, f"'unmeasured' has the column '{clash[0]}', which is measured")
        evaluators = values.get('evaluators', [])
        if not isinstance(evaluators, list) or not all(
            isinstance(evaluator, dict) and isinstance(evaluator.get('type'), str) for evaluator in evaluators
        ):
            raise self.fail(where, f"'evaluators' should list metrics with a 'type', but is {_short(evaluators)}")
        scale = self.numbers(values, 'scale', where, metrics)
        if wrong := [column for column, factor in scale.items() if factor <= 0]:
            raise self.fail(where, f"'scale.{wrong[0]}' should be above 0, but is {scale[wrong[0]]:g}")
        counting = self.counting(values, where)
        speed = self.speed(values, where, [*COSTS, *metrics, *unmeasured])
        columns = [*(COSTS if counting else ()), *metrics, *unmeasured, *([speed.column] if speed else [])]
        if not isinstance(values['rows'], list) or not values['rows']:
            raise self.fail(where, f"'rows' should be a list of rows, but is {_short(values['rows'])}")
        rows: list[Row] = []
        for number, entry in enumerate(values['rows'], 1):
            row = self.row(entry, where, number, columns, values)
            if any(row.name == other.name for other in rows):
                raise self.fail(f"{where}, row '{row.name}'", 'the name stands twice')
            rows.append(row)
        self.check_baselines(rows, where)
        return Table(
            self.file.parent.name,
            key,
            self.text(values, 'title', where),
            self.text(values, 'source', where),
            self.text(recipe, 'paper', f"{where}, 'recipe'"),
            self.text(recipe, 'ours', f"{where}, 'recipe'"),
            task,
            metrics,
            scale,
            tuple(lower),
            unmeasured,
            tuple(evaluators),
            counting,
            tuple(rows),
            self.file,
            speed,
        )

    def counting(self, values: dict, where: str) -> Counting | None:
        given = [key for key in ('flops', 'input_size', 'tolerance') if key in values]
        if not given:
            return None
        for key in ('flops', 'input_size'):
            if key not in values:
                raise self.fail(where, f"'{given[0]}' needs '{key}' beside it")
        if values['flops'] not in tuple(CONVENTIONS):
            raise self.fail(
                where, f"'flops' should be one of {', '.join(CONVENTIONS)}, but is {_short(values['flops'])}"
            )
        size = values['input_size']
        if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            raise self.fail(where, f"'input_size' should be height and width, but is {_short(size)}")
        tolerance = self.numbers(values, 'tolerance', where, ('params', 'flops'))
        if wrong := [cost for cost, percent in tolerance.items() if percent < 0]:
            raise self.fail(where, f"'tolerance.{wrong[0]}' should be 0 or more, but is {tolerance[wrong[0]]:g}")
        return Counting(
            values['flops'], tuple(size), **{f'tolerance_{cost}': value for cost, value in tolerance.items()}
        )

    def speed(self, values: dict, where: str, others: Iterable[str]) -> Speed | None:
        """The column of frames per second, which is none of the others."""
        if 'speed' not in values:
            return None
        if 'input_size' not in values:
            raise self.fail(where, "'speed' needs 'input_size' beside it")
        where = f"{where}, 'speed'"
        given = self.mapping(values['speed'], where, required=('column', 'paper'), optional=('mode',))
        if empty := [key for key in given if given[key] is None]:
            raise self.fail(where, f"'{empty[0]}' should be a text, but is None")
        speed = Speed(**{key: self.text(given, key, where) for key in given})
        if speed.column in others:
            raise self.fail(where, f"'column' is '{speed.column}', which is the name of another column")
        if speed.mode not in MODES:
            raise self.fail(where, f"'mode' should be one of {', '.join(MODES)}, but is '{speed.mode}'")
        return speed

    def row(self, entry: Any, where: str, number: int, columns: list[str], table: dict) -> Row:
        name = entry.get('name') if isinstance(entry, dict) else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise self.fail(
                f'{where}, row {number}', f'\'name\' should be letters, digits, ".", "_" and "-", but is {_short(name)}'
            )
        where = f"{where}, row '{name}'"
        values = self.mapping(entry, where, **ROW_KEYS)
        quoted = values.get('quoted', False)
        if not isinstance(quoted, bool):
            raise self.fail(where, f"'quoted' should be true or false, but is {_short(quoted)}")
        waits_for = self.text(values, 'waits_for', where)
        overrides = {key: self.overrides(values.get(key, {}), f"{where}, '{key}'") for key in ('set', 'count_set')}
        config = self.text(values, 'config', where) or self.text(table, 'base', where)
        if quoted or waits_for:
            if extra := [key for key in ('config', 'dataset', 'set', 'count_set', 'count_only') if key in values] or (
                ['quoted', 'waits_for'] if quoted and waits_for else []
            ):
                raise self.fail(where, f"a row that cannot run should not have '{extra[0]}'")
            config = None
        elif config is None:
            raise self.fail(where, "has no 'config', and the table has no 'base'")
        else:
            config = self.config(config, where)
        return Row(
            name,
            self.text(values, 'label', where),
            config,
            self.text(values, 'dataset', where),
            **overrides,
            count_only=self.kinds(values, where),
            paper=self.numbers(values, 'paper', where, columns),
            paper_baseline=self.numbers(values, 'paper_baseline', where, columns),
            baseline=self.text(values, 'baseline', where) or self.text(table, 'baseline', where),
            quoted=quoted,
            waits_for=waits_for,
            note=self.text(values, 'note', where),
        )

    def kinds(self, values: dict, where: str) -> tuple[str, ...]:
        """``count_only``, a list of texts."""
        kinds = values.get('count_only', [])
        if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
            raise self.fail(where, f"'count_only' should be a list of kinds of operators, but is {_short(kinds)}")
        return tuple(kinds)

    def overrides(self, value: Any, where: str) -> dict:
        """A mapping whose dicts have text keys all the way down, as a config's have."""
        for key, item in self.mapping(value, where, known=None).items():
            if isinstance(item, dict):
                self.overrides(item, f"{where}, '{key}'")
        return value

    def config(self, name: str, where: str) -> str:
        if '::' in name:
            return name
        path = (self.file.parent / name).resolve()
        if not path.is_file():
            near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob('*.py')], n=1, cutoff=0.8)
            raise self.fail(
                where, f"the config '{name}' does not exist" + (f", did you mean '{near[0]}'?" if near else '')
            )
        return str(path)

    def check_baselines(self, rows: list[Row], where: str) -> None:
        """Every baseline exists and is none's candidate; the table's own baseline is not compared with itself."""
        names = [row.name for row in rows]
        for index, row in enumerate(rows):
            if row.baseline is not None and row.baseline not in names:
                raise self.fail(f"{where}, row '{row.name}'", no_such("'baseline' names no row", row.baseline, names))
            if row.baseline == row.name:
                rows[index] = Row(**{**vars(row), 'baseline': None})
        for row in rows:
            if row.baseline is not None and rows[names.index(row.baseline)].baseline is not None:
                raise self.fail(
                    f"{where}, row '{row.name}'", f"its baseline '{row.baseline}' is compared with another row itself"
                )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '...'
