"""VisDrone-DET annotations to COCO json.

One text file per image, one box per line: ``left,top,width,height,score,category,truncation,occlusion``, in places with
a trailing comma (VisDrone2019-DET toolkit). What is not an object to find is treated as the toolkit treats it:

- Category 0, ignored regions: ``images[i]['ignored_regions'] = [[x, y, w, h], ...]``, which the VisDrone protocol of
  ``mmscale.evaluation`` reads.
- Score 0 in the categories 1 to 10: annotations with ``iscrowd: 1``, so that training leaves them out, and evaluation
  neither asks for them nor punishes finding them.
- Category 11, others: dropped, and counted in the summary.
"""
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .coco import CocoBuilder, Summary, parse_number, read_lines

__all__ = ['VISDRONE_CLASSES', 'convert_visdrone']

VISDRONE_CLASSES = ('pedestrian', 'people', 'bicycle', 'car', 'van', 'truck', 'tricycle', 'awning-tricycle', 'bus',
                    'motor')
_IGNORED_REGION, _OTHERS = 0, 11
_FIELDS = ('left', 'top', 'width', 'height', 'score', 'category', 'truncation', 'occlusion')


def convert_visdrone(root: str | Path = 'data/visdrone', splits: Sequence[str] = ('train', 'val'),
                     out: str | Path | None = None, decode: bool = False) -> list[Summary]:
    """Converts splits of VisDrone-DET.

    Args:
        root (str | Path): Folder with ``VisDrone2019-DET-<split>/{images,annotations}``. Defaults to 'data/visdrone'.
        splits (Sequence[str]): The splits: 'train', 'val', 'test-dev'. Defaults to ('train', 'val').
        out (str | Path, optional): Folder for ``<split>.json``. Defaults to ``<root>/annotations``.
        decode (bool): Decode every image to prove that it is whole. Defaults to False.

    Returns:
        list[Summary]: One per split.

    Raises:
        FileNotFoundError: A folder, an image or an annotation file is missing.
        ValueError: An annotation or an image is broken; the message names file and line.
    """
    root = Path(root)
    out = root / 'annotations' if out is None else Path(out)
    built = [(split, _read_split(root, split, decode)) for split in splits]  # all are read before one is written
    return [builder.finish(out / f'{split}.json') for split, builder in built]


def _read_split(root: Path, split: str, decode: bool) -> CocoBuilder:
    folder = root / f'VisDrone2019-DET-{split}'
    for part in ('images', 'annotations'):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"'{folder / part}' is missing: unpack VisDrone2019-DET-{split}.zip into '{root}'")
    images = {path.stem: path for path in sorted((folder / 'images').glob('*.jpg'))}
    texts = {path.stem: path for path in sorted((folder / 'annotations').glob('*.txt'))}
    for stem in sorted(images.keys() ^ texts.keys()):
        if stem in images:
            raise FileNotFoundError(f"image '{images[stem]}' has no annotation file "
                                    f"'{folder / 'annotations' / stem}.txt'")
        raise FileNotFoundError(f"annotation file '{texts[stem]}' has no image '{folder / 'images' / stem}.jpg'")

    builder = CocoBuilder(f'VisDrone-DET {split}', VISDRONE_CLASSES, decode)
    for stem, path in tqdm(images.items(), desc=builder.name, unit='image', disable=None):
        image = builder.add_image(path)
        image['ignored_regions'] = []
        for number, line in read_lines(texts[stem]):
            _add_line(builder, image, line, f'{texts[stem]}, line {number}')
    return builder


def _add_line(builder: CocoBuilder, image: dict, line: str, where: str) -> None:
    fields = line.rstrip(', \t').split(',')
    if len(fields) != len(_FIELDS):
        raise ValueError(f"{where}: expected {len(_FIELDS)} values ({','.join(_FIELDS)}), "
                         f"found {len(fields)}: '{line}'")
    *box, score, category, truncation, occlusion = (
        parse_number(text, where, name) for text, name in zip(fields, _FIELDS, strict=True))
    if category not in range(_IGNORED_REGION, _OTHERS + 1):
        raise ValueError(f'{where}: category must be 0 (ignored region), 1 to {len(VISDRONE_CLASSES)} or {_OTHERS} '
                         f'(others), but is {category}')
    if category == _IGNORED_REGION:
        region = builder.clip(image, box, where)
        if region is not None:
            image['ignored_regions'].append(region)
            builder.count('ignored regions')
    elif category == _OTHERS:
        builder.count('boxes of category 11 (others), dropped')
    elif builder.add_box(image, box, VISDRONE_CLASSES[category - 1], where, iscrowd=int(score == 0),
                         truncation=truncation, occlusion=occlusion) and score == 0:
        builder.count('objects with score 0, not evaluated (iscrowd)')
