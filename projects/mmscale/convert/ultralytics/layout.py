"""Which official YOLO a state dict is of, read off the names and shapes of its weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .names import head_index

__all__ = ['Layout', 'read_layout']

Shapes = Mapping[str, tuple[int, ...]]

# Names of which each family alone has some, and more than one of them, lest a damaged file be of none. PSA; area
# attention; YOLOv8's head after layers of bottlenecks.
SIGNS = {
    'YOLOv10': [r'model\.10\.(attn|ffn)\..*'],
    'YOLOv12': [r'model\.[68]\.m\.\d+\.\d+\..*'],
    'YOLOv8': [r'model\.22\.(cv2|cv3|dfl)\..*', r'model\.[2468]\.m\..*'],
}

# By the width of the first layer and the blocks of the layer of index 6.
SCALES = {
    'YOLOv8': {(16, 2): 'n', (32, 2): 's', (48, 4): 'm', (64, 6): 'l', (80, 6): 'x'},
    'YOLOv10': {(16, 2): 'n', (32, 2): 's', (48, 4): 'm', (64, 4): 'b', (64, 6): 'l', (80, 6): 'x'},
    'YOLOv12': {(16, 2): 'n', (32, 2): 's', (64, 2): 'm', (64, 4): 'l', (96, 4): 'x'},
}


@dataclass
class Layout:
    """In what one official YOLO differs from another; None for what a damaged state dict does not say.

    Attributes:
        family (str): ``'YOLOv8'``, ``'YOLOv10'`` or ``'YOLOv12'``.
        width (int, optional): Channels of the first layer.
        depth (int): Blocks of the layer of index 6.
        classes (int, optional): Classes.
        options (dict): Of YOLOv12, in what its two releases differ, as arguments of
            :class:`~mmscale.yolo.backbones.YOLOv12Backbone`.
    """

    family: str
    width: int | None
    depth: int
    classes: int | None
    options: dict = field(default_factory=dict)

    def __str__(self) -> str:
        scale = SCALES[self.family].get((self.width, self.depth))
        name = f'{self.family}-{scale}' if scale else f'{self.family} of no released scale'
        size = '' if scale else f' ({self.width} channels in layer 0, {self.depth} blocks in layer 6)'
        release = {5: ' (turbo)', 7: ' of the first release'}.get(self.options.get('position_kernel'), '')
        return f'{name}{size}{release} with {self.classes or "unknown"} classes'

    def differs(self, other: 'Layout') -> bool:
        """Whether this is another family, scale or number of classes."""
        pairs = [(self.width, other.width), (self.depth, other.depth), (self.classes, other.classes)]
        return self.family != other.family or any(a != b for a, b in pairs if a and b)

    def overrides(self, other: 'Layout') -> str:
        """What ``--cfg-options`` must say so that another's config has these options; '' if it has."""
        changed = {name: value for name, value in self.options.items() if other.options.get(name, value) != value}
        texts = {
            name: f'"{value}"'.replace(' ', '') if isinstance(value, list) else value for name, value in changed.items()
        }
        return ' '.join(f'model.backbone.{name}={text}' for name, text in texts.items())


def read_layout(shapes: Shapes) -> Layout | None:
    """Read what a state dict is of.

    Args:
        shapes (Mapping): Shapes of the weights by their official names, ``model.0.conv.weight``, ...

    Returns:
        Layout | None: None if it is of none of the families.
    """
    found = [
        family
        for family, signs in SIGNS.items()
        if all(any(re.fullmatch(sign, name) for name in shapes) for sign in signs)
    ]
    if not found:
        return None
    family = found[0]
    units = {match[1] for name in shapes if (match := re.match(r'model\.6\.m\.(\d+)\.', name))}
    return Layout(
        family,
        width=_size(shapes, r'model\.0\.conv\.weight'),
        depth=len(units),
        classes=_size(shapes, rf'model\.{head_index(family)}\.(one2one_)?cv3\.\d\.2\.(weight|bias)'),
        options=_options(shapes) if family == 'YOLOv12' else {},
    )


def _options(shapes: Shapes) -> dict:
    widths = [_size(shapes, rf'model\.{layer}\.conv\.weight') for layer in ('0', r'2\.cv2')]
    into = [_size(shapes, rf'model\.{layer}\.conv\.weight', 1) for layer in (1, 3)]
    hidden, width = (_size(shapes, r'model\.6\.m\.\d+\.\d\.mlp\.0\.conv\.weight', dim) for dim in (0, 1))
    found = dict(
        position_kernel=_size(shapes, r'model\.6\.m\.\d+\.\d\.attn\.pe\.conv\.weight', 2),
        stride_groups=[a // b for a, b in zip(widths, into, strict=True) if a and b],
        mlp_ratio=round(hidden / width, 1) if hidden and width else None,
    )
    if len(found['stride_groups']) < 2:
        found['stride_groups'] = None
    return {name: value for name, value in found.items() if value is not None}


def _size(shapes: Shapes, pattern: str, dim: int = 0) -> int | None:
    """A dimension of the first weight with such a name."""
    found = (shape for name, shape in shapes.items() if re.fullmatch(pattern, name))
    return next((shape[dim] for shape in found if len(shape) > dim), None)
