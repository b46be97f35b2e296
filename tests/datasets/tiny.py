"""Tiny hand-made data sets for tests."""
import json
from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, width: int = 64, height: int = 48) -> Path:
    """A small image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), image)
    return path


def write_coco(path: Path, images: list[dict], annotations: list[dict], categories=('disk', 'square')) -> Path:
    """A COCO file; images are 64x48 where they say nothing, categories numbered from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [dict(dict(width=64, height=48, file_name=f'{image["id"]}.jpg'), **image) for image in images]
    annotations = [dict(dict(id=number, iscrowd=0, area=entry['bbox'][2] * entry['bbox'][3]), **entry)
                   for number, entry in enumerate(annotations, 1)]
    categories = [dict(id=number, name=name) for number, name in enumerate(categories, 1)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path


def voc_xml(objects=(), size=(64, 48), extra: str = '') -> str:
    """A VOC annotation, one line per object from line 3 on: (name, xmin, ymin, xmax, ymax[, difficult])."""
    lines = ['<annotation>', f'<size><width>{size[0]}</width><height>{size[1]}</height></size>' if size else '']
    for name, *box in objects:
        sides = ''.join(f'<{side}>{value}</{side}>' for side, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box[:4],
                                                                            strict=True))
        lines.append(f'<object><name>{name}</name><difficult>{box[4] if len(box) > 4 else 0}</difficult>'
                     f'<bndbox>{sides}</bndbox></object>')
    return '\n'.join([*lines, extra, '</annotation>'])


def write_voc(root: Path, annotations: dict[str, str], split: str = 'train', with_images: bool = True) -> Path:
    """A VOC folder from image names and annotations' texts."""
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in annotations.items():
        (root / 'Annotations' / f'{name}.xml').write_text(text)
        if with_images:
            write_image(root / 'JPEGImages' / f'{name}.jpg')
    (root / 'ImageSets/Main' / f'{split}.txt').write_text('\n'.join(annotations) + '\n')
    return root
