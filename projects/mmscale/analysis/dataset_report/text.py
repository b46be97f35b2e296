"""The report as Markdown."""

from mmscale.files import markdown_table

from .faults import FAULTS
from .findings import percent

__all__ = ['to_markdown']

MOST_FAULTS = 5


def to_markdown(content: dict) -> str:
    """The report for people: what to look at first, then the figures.

    Args:
        content (dict): The report.
    """
    detector = content['detector']
    strides = ', '.join(f'{stride:g}' for stride in detector['strides'])
    parts = [f'# Data of {content["config"]}', f'{detector["type"]}, strides {strides} ({detector["strides_from"]}).']
    if detector['batch_augments']:
        parts.append(f'Not counted: what the model does to whole batches, {", ".join(detector["batch_augments"])}.')
    parts += ['## Look at', '\n'.join(f'- {line}' for line in content['look_at']) or 'Nothing that needs action.']
    for part in (_images, _sizes, _strides, _levels, _crowding, _classes, _faults):
        parts += part(content)
    return '\n\n'.join(parts) + '\n'


def _images(content: dict) -> list[str]:
    rows = [['', 'images', 'used', 'looked at', 'objects', 'ignored', 'most frequent size after']]
    notes = []
    for name, split in content['splits'].items():
        images, resize = split['images'], split['resize']
        size = resize['images'][0] if resize['images'] else None
        rows.append([name, images['listed'], images['kept'], images['looked_at'], split['original']['objects'],
                     split['ignored'], f'{size["width"]}x{size["height"]}' if size else '-'])  # fmt: skip
        notes.append(f'- {name}: {_assumption(resize)}')
    texts = [list(map(str, row)) for row in rows]
    return ['## Images', markdown_table(texts, right=range(1, 6)), '\n'.join(notes)]


def _assumption(resize: dict) -> str:
    """What the sizes after resizing stand for."""
    steps = ', '.join(dict.fromkeys(resize['steps'])) or 'no resizing'
    text = f'{steps}, run on blank images'
    if resize['random']:
        text += f'; it is random: figures are means of {resize["draws"]} draws'
    if resize['wrappers']:
        text += f'; {", ".join(resize["wrappers"])} only repeats images and is left out'
    if resize['unknown']:
        text += f'; left out, as it is not known what they do to boxes: {", ".join(resize["unknown"])}'
    return text


def _sizes(content: dict) -> list[str]:
    rows = [['', '', 'small', 'medium', 'large', 'min', '5 %', 'median', '95 %', 'max']]
    for name, split in content['splits'].items():
        for when in ('original', 'resized'):
            sizes = split[when]
            counts = [f'{sizes[key]} ({percent(sizes[key], sizes["objects"])})' for key in ('small', 'medium', 'large')]
            found = [f'{value:g}' for value in sizes['sqrt_area'].values()] or ['-'] * 5
            rows.append([name if when == 'original' else '', when, *counts, *found])
    return ['## Object sizes', 'COCO\'s bins (areas to 32², to 96², above), and sqrt(area) in pixels.',
            markdown_table(rows, right=range(2, 10))]  # fmt: skip


def _strides(content: dict) -> list[str]:
    rows = [['', 'smaller than', 'shorter side', '', 'sqrt(area)', '']]
    for name, split in content['splits'].items():
        total = split['resized']['objects']
        for at, row in enumerate(split['strides']):
            what = 'one pixel' if row['stride'] == 1 else f'a stride-{row["stride"]:g} cell'
            if row['stride'] not in (1, *content['detector']['strides']):
                what += ' (not of this model)'
            rows.append([name if at == 0 else '', what, str(row['min_side']), percent(row['min_side'], total),
                         str(row['sqrt_area']), percent(row['sqrt_area'], total)])  # fmt: skip
    return ['## Objects against strides, after resizing', markdown_table(rows, right=range(2, 6))]


def _levels(content: dict) -> list[str]:
    parts = []
    rules = [(item['rule'], item['strides']) for split in content['splits'].values() for item in split['levels']]
    for rule, strides in dict.fromkeys((rule, tuple(strides)) for rule, strides in rules):
        rows = [['', *(f'stride {stride:g}' for stride in strides)]]
        for name, split in content['splits'].items():
            for item in split['levels']:
                if (item['rule'], tuple(item['strides'])) == (rule, strides):
                    total = sum(item['objects'])
                    rows.append([name, *(f'{number} ({percent(number, total)})' for number in item['objects'])])
        parts += [f'By {rule}:', markdown_table(rows, right=range(1, len(rows[0])))]
    return ['## Objects by level', *parts] if parts else []


def _crowding(content: dict) -> list[str]:
    rows = [['', 'images without', 'median', '95 %', 'max', 'mean']]
    limits = [['', 'limit', 'value', 'per', 'most', 'images above']]
    for name, split in content['splits'].items():
        crowding = split['crowding']
        found = crowding['objects_per_image'] or dict.fromkeys(('median', '95 %', 'max'), 0)
        rows.append([name, str(crowding['without_objects']), *(f'{found[key]:g}' for key in ('median', '95 %', 'max')),
                     f'{crowding["mean"]:g}'])  # fmt: skip
        for at, item in enumerate(crowding['limits']):
            limits.append([name if at == 0 else '', item['name'], str(item['value']), item['per'], str(item['most']),
                           str(item['images'])])  # fmt: skip
    parts = ['## Objects per image', markdown_table(rows, right=range(1, 6))]
    return [*parts, markdown_table(limits, right=(2, 4, 5))] if len(limits) > 1 else parts


def _classes(content: dict) -> list[str]:
    names = list(content['splits'])
    rows = [['class', *(f'{name}: {what}' for name in names for what in ('objects', 'images', 'median size'))]]
    columns = {name: {row['name']: row for row in split['classes']} for name, split in content['splits'].items()}
    for label in dict.fromkeys(label for column in columns.values() for label in column):
        cells = []
        for name in names:
            row = columns[name].get(label)
            size = '-' if row is None or row['median_sqrt_area'] is None else f'{row["median_sqrt_area"]:g}'
            cells += ['-'] * 3 if row is None else [str(row['objects']), str(row['images']), size]
        rows.append([label, *cells])
    return ['## Classes', 'Sizes: sqrt(area) in original pixels.', markdown_table(rows, right=range(1, len(rows[0])))]


def _faults(content: dict) -> list[str]:
    rows = [['', 'fault', 'meaning', 'boxes', 'first']]
    for name, split in content['splits'].items():
        for kind, items in split['faults'].items():
            if items:
                first = ', '.join(dict.fromkeys(item['image'] for item in items[:MOST_FAULTS]))
                rows.append([name, kind, FAULTS[kind], str(len(items)), first])
    return ['## Faulty boxes in the annotation files', markdown_table(rows, right=(3,))] if len(rows) > 1 else []
