"""NWPU VHR-10 annotations to COCO json.

One text file per image in ``ground truth``, one box per line: ``(x1,y1),(x2,y2),class`` with blanks in places, classes
1 to 10. Only the 650 images of ``positive image set`` carry ground truth and are used; the 150 negative ones are not.

The publisher gives no split, and papers differ (from 20 % to 80 % for training); the HMPE paper names none. **Our
choice**: 70 % for training, 30 % for validation, drawn from a seed. Figures compare only over the same split, so lists
of names can be given instead, and the split that was drawn is written beside the annotations.
"""
import hashlib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from .coco import CocoBuilder, Summary, parse_number, read_lines, write_text

__all__ = ['NWPU_CLASSES', 'convert_nwpu', 'split_names']

NWPU_CLASSES = ('airplane', 'ship', 'storage tank', 'baseball diamond', 'tennis court', 'basketball court',
                'ground track field', 'harbor', 'bridge', 'vehicle')
_LINE = re.compile(r'\(\s*([^,()\s]+)\s*,\s*([^,()\s]+)\s*\)\s*,' * 2 + r'\s*([^,()\s]+)\s*,?')


def convert_nwpu(root: str | Path = 'data/nwpu_vhr10', train_ratio: float = 0.7, seed: int = 0,
                 train_list: str | Path | None = None, val_list: str | Path | None = None,
                 out: str | Path | None = None, decode: bool = False) -> list[Summary]:
    """Converts NWPU VHR-10 into ``train.json`` and ``val.json``.

    Args:
        root (str | Path): Folder with ``positive image set`` and ``ground truth``. Defaults to 'data/nwpu_vhr10'.
        train_ratio (float): Share of the images for training, between 0 and 1. Defaults to 0.7, our choice.
        seed (int): Seed of the split. Defaults to 0.
        train_list (str | Path, optional): Text file with one image name per line, with or without its ending, instead
            of a drawn split; needs ``val_list`` too. Defaults to None.
        val_list (str | Path, optional): The same for validation. Defaults to None.
        out (str | Path, optional): Folder for the results. Defaults to ``<root>/annotations``.
        decode (bool): Decode every image to prove that it is whole. Defaults to False.

    Returns:
        list[Summary]: Of train and val.

    Raises:
        FileNotFoundError: A folder, an image or an annotation file is missing.
        ValueError: An annotation, an image, a list or the ratio is wrong; the message names file and line.
    """
    root = Path(root)
    out = root / 'annotations' if out is None else Path(out)
    images, texts = root / 'positive image set', root / 'ground truth'
    for folder in (images, texts):
        if not folder.is_dir():
            raise FileNotFoundError(f"'{folder}' is missing: place the two folders 'positive image set' and "
                                    f"'ground truth' of NWPU VHR-10 in '{root}'")
    files = {path.stem: path for path in sorted(images.glob('*.jpg'))}
    for path in sorted(texts.glob('*.txt')):
        if path.stem not in files:
            raise FileNotFoundError(f"annotation file '{path}' has no image '{images / path.stem}.jpg'")

    if (train_list is None) != (val_list is None):
        raise ValueError(f'train_list and val_list must be given together, but train_list is {train_list} and val_list '
                         f'is {val_list}')
    if train_list is None:
        names = split_names(files, train_ratio, seed)
    else:
        names = _read_list(Path(train_list), files), _read_list(Path(val_list), files)
        both = sorted(set(names[0]) & set(names[1]))
        if both:
            raise ValueError(f"'{train_list}' and '{val_list}' must not share images, but share {both[:5]}")
        unlisted = sorted(files.keys() - {*names[0], *names[1]})
        if unlisted:
            warnings.warn(f'NWPU VHR-10: {len(unlisted)} images are in neither list (the first: {unlisted[0]})',
                          stacklevel=2)

    splits = dict(zip(('train', 'val'), names, strict=True))
    built = {split: _read_split(files, texts, split, stems, decode) for split, stems in splits.items()}
    summaries = [builder.finish(out / f'{split}.json') for split, builder in built.items()]
    for split, stems in splits.items():
        write_text(out / f'{split}.txt', ''.join(f'{stem}\n' for stem in stems))
    return summaries


def split_names(names: Iterable[str], train_ratio: float = 0.7, seed: int = 0) -> tuple[list[str], list[str]]:
    """Draws a split that depends on nothing but the names and the seed.

    Names are ordered by a hash of seed and name, so the split is the same on every machine and Python version, and one
    image more or less moves hardly any other.

    Args:
        names (Iterable[str]): The names.
        train_ratio (float): Share for training, between 0 and 1. Defaults to 0.7.
        seed (int): Seed. Defaults to 0.

    Returns:
        tuple[list[str], list[str]]: Names for training and for validation, each sorted.

    Example:
        >>> train, val = split_names([f'{i:03d}' for i in range(1, 651)])
        >>> len(train), len(val), set(train) & set(val)
        (455, 195, set())
    """
    names = sorted(names)
    if not 0 < train_ratio < 1:
        raise ValueError(f'train_ratio must lie between 0 and 1, but is {train_ratio}')
    count = round(len(names) * train_ratio)
    if not 0 < count < len(names):
        raise ValueError(f'train_ratio {train_ratio} of {len(names)} images leaves one split empty: give more images '
                         'or another ratio')
    drawn = sorted(names, key=lambda name: hashlib.sha256(f'{seed}/{name}'.encode()).digest())
    return sorted(drawn[:count]), sorted(drawn[count:])


def _read_list(path: Path, files: dict[str, Path]) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"list '{path}' does not exist")
    stems = {}
    for number, line in read_lines(path):
        stem = line if line in files else Path(line).stem
        if stem not in files:
            raise ValueError(f"{path}, line {number}: there is no image '{line}' in 'positive image set'")
        if stem in stems:
            raise ValueError(f"{path}, line {number}: image '{line}' is listed twice, first in line {stems[stem]}")
        stems[stem] = number
    return sorted(stems)


def _read_split(files: dict[str, Path], texts: Path, split: str, stems: list[str], decode: bool) -> CocoBuilder:
    builder = CocoBuilder(f'NWPU VHR-10 {split}', NWPU_CLASSES, decode)
    for stem in tqdm(stems, desc=builder.name, unit='image', disable=None):
        text = texts / f'{stem}.txt'
        if not text.is_file():
            raise FileNotFoundError(f"image '{files[stem]}' has no annotation file '{text}'")
        image = builder.add_image(files[stem])
        for number, line in read_lines(text):
            _add_line(builder, image, line, f'{text}, line {number}')
    return builder


def _add_line(builder: CocoBuilder, image: dict, line: str, where: str) -> None:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"{where}: expected '(x1,y1),(x2,y2),class', found '{line}'")
    x1, y1, x2, y2, label = (
        parse_number(text, where, name)
        for text, name in zip(match.groups(), ('x1', 'y1', 'x2', 'y2', 'class'), strict=True))
    if label not in range(1, len(NWPU_CLASSES) + 1):
        raise ValueError(f'{where}: class must be a number from 1 to {len(NWPU_CLASSES)}, but is {label}')
    builder.add_box(image, (x1, y1, x2 - x1, y2 - y1), NWPU_CLASSES[label - 1], where)
