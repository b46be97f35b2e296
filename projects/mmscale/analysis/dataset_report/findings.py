"""What of a report needs somebody to look at it, in sentences with the numbers."""

from collections.abc import Iterator

__all__ = ['find_findings', 'percent']

IMBALANCE = 10  # our choice: the ratio between the most and the least frequent class that is worth a word
NAMED = 3
FAULT_TEXTS = {
    'not finite': 'with a corner that is no finite number',
    'zero area': 'of zero or negative area',
    'thin': 'thinner than one pixel',
    'outside': 'outside the image',
    'cut': 'reaching more than one pixel out of the image',
    'twice': 'annotated before, with the same class',
    'two classes': 'annotated before, with another class',
}


def find_findings(content: dict) -> list[str]:
    """The sentences, first what breaks a training or makes its result worthless.

    Args:
        content (dict): The report.
    """
    splits = content['splits'].items()
    found = list(_copies(content))
    for part in (_files, _boxes, _sizes, _levels, _limits, _empty, _classes):
        for name, split in splits:
            images = split['images']
            sampled = part in OF_SAMPLE and images['looked_at'] < images['kept']
            where = f'{name}, {images["looked_at"]} of {images["kept"]} images' if sampled else name
            found += [f'{where}: {sentence}' for sentence in part(split, content)]
    return found


def percent(part: float, whole: float) -> str:
    """A share for people; small ones keep a digit that says something.

    Example:
        >>> percent(37, 4888), percent(1, 4888), percent(0, 0)
        ('0.8 %', '0.02 %', '-')
    """
    if not whole:
        return '-'
    share = 100 * part / whole
    return f'{share:.2g} %' if 0 < share < 0.1 else f'{share:.1f} %'


def _copies(content: dict) -> Iterator[str]:
    for kind, what in (('same file', 'the same file'), ('same look', 'the same look (equal dHash, other bytes)')):
        groups = content.get('copies', {}).get(kind, [])
        apart = [group for group in groups if len(group['splits']) > 1]
        for splits in dict.fromkeys(tuple(group['splits']) for group in apart):
            ours = [group for group in apart if tuple(group['splits']) == splits]
            yield f'{_many(len(ours), "image")} in both {" and ".join(splits)}, {what}: {_named(map(_names, ours))}'
        for name in content['splits']:
            ours = [group for group in groups if len(group['images'].get(name, ())) > 1]
            if ours:
                yield f'{name}: {_many(len(ours), "image")} more than once, {what}: {_named(map(_names, ours))}'


def _files(split: dict, content: dict) -> Iterator[str]:
    files = split.get('files')
    if files is None:
        return
    if files['unreadable']:
        named = _named(f'{item["image"]} {item["fault"]}' for item in files['unreadable'])
        yield f'{len(files["unreadable"])} of {_many(files["read"], "image file")} cannot be used: {named}'
    for swapped, what in (
        (True, 'width and height swapped in the annotations'),
        (False, 'another size than annotated'),
    ):
        ours = [item for item in files['sizes'] if item['swapped'] == swapped]
        if ours:
            named = _named(f'{item["image"]} is {"x".join(map(str, item["file"]))}, annotated as '
                           f'{"x".join(map(str, item["annotated"]))}' for item in ours)  # fmt: skip
            yield f'{_many(len(ours), "image")} with {what}: {named}'


def _boxes(split: dict, content: dict) -> Iterator[str]:
    for kind, items in split['faults'].items():
        if items:
            images = list(dict.fromkeys(item['image'] for item in items))
            yield f'{_many(len(items), "box", "boxes")} {FAULT_TEXTS[kind]}: {_named(images)}'


def _sizes(split: dict, content: dict) -> Iterator[str]:
    strides, total = content['detector']['strides'], split['resized']['objects']
    for row in split['strides']:
        if row['stride'] == 1 and row['min_side']:
            yield f'{row["min_side"]} of {total} objects thinner than one pixel after resizing'
        if row['stride'] == strides[0] and row['min_side']:
            shares = percent(row['min_side'], total), percent(row['sqrt_area'], total)
            yield (f'{row["min_side"]} of {total} objects ({shares[0]}) are thinner than one stride-{strides[0]:g} '
                   f'cell after resizing, {row["sqrt_area"]} ({shares[1]}) are smaller than one in area; the finest '
                   f'level of this detector has stride {strides[0]:g}')  # fmt: skip


def _levels(split: dict, content: dict) -> Iterator[str]:
    if not split['trains']:
        return
    for item in split['levels']:
        empty = [f'{stride:g}' for stride, number in zip(item['strides'], item['objects'], strict=True) if not number]
        if empty and sum(item['objects']):
            yield f'no object falls to the level of stride {", ".join(empty)} ({item["rule"]})'


def _limits(split: dict, content: dict) -> Iterator[str]:
    for limit in split['crowding']['limits']:
        if limit['images']:
            yield (f'{_many(limit["images"], "image")} with more objects than {limit["name"]} = {limit["value"]} per '
                   f'{limit["per"]}; the most is {limit["most"]}')  # fmt: skip


def _empty(split: dict, content: dict) -> Iterator[str]:
    images = split['images']
    if images['without_objects'] and split['trains']:
        kept = images['kept_without_objects']
        what = f'{kept} of them are trained on as pure background' if kept else 'filter_cfg leaves them out'
        yield f'{images["without_objects"]} of {_many(images["listed"], "image")} without an object; {what}'


def _classes(split: dict, content: dict) -> Iterator[str]:
    empty = [row['name'] for row in split['classes'] if not row['objects']]
    if empty:
        yield f'{len(empty)} of {len(split["classes"])} classes have no object: {_named(empty, 10)}'
    if split['trains'] and split['imbalance'] and split['imbalance'] >= IMBALANCE:
        counts = {row['name']: row['objects'] for row in split['classes'] if row['objects']}
        most, least = max(counts, key=counts.get), min(counts, key=counts.get)
        yield (f'the most frequent class has {split["imbalance"]:g} times the objects of the least frequent one '
               f'({most} {counts[most]}, {least} {counts[least]})')  # fmt: skip


def _many(number: float, one: str, several: str | None = None) -> str:
    return f'{number} {one if number == 1 else several or one + "s"}'


def _names(group: dict) -> str:
    return ' = '.join(f'{split}/{name}' for split, names in group['images'].items() for name in names)


def _named(items, most: int = NAMED) -> str:
    items = list(items)
    return ', '.join(items[:most]) + (f', ... {len(items) - most} more' if len(items) > most else '')


OF_SAMPLE = (_sizes, _levels, _limits, _classes)  # looked for in the images drawn, not in the whole annotation files
