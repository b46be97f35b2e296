"""How an image becomes the input of an exported detector, as the ONNX file's own metadata says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np

from mmscale.engine.cli import UsageError

from .letterbox import Letterbox, fill, resize_to

__all__ = ['InputRules', 'read_rules']

RULES = ('classes', 'channel_order', 'resize')
KEYS = ('keep_ratio', 'scale', 'pad_divisor', 'pad_value', 'round', 'shrink', 'enlarge', 'pad_size', 'letterbox')
LETTERBOX_KEYS = ('scale', 'scale_up', 'interpolation', 'pad_value')
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'area', 'lanczos')


@dataclass
class InputRules:
    """From a decoded image to the network's input.

    Attributes:
        classes (tuple[str, ...]): Names of the classes.
        channel_order (str): 'RGB' or 'BGR'.
        input_size (tuple[int, int], optional): Height and width of the input; None if any will do.
        keep_ratio (bool): Whether an image keeps its proportions when it is resized.
        scale (tuple[int, int], optional): Width and height to resize to; with ``keep_ratio`` a frame to fit into, lying
            or standing as the image does, as in MMDetection's ``Resize``. None: only ``input_size`` counts.
        pad_divisor (int): The input's sides are multiples of it where ``input_size`` does not fix them.
        pad_value (float | list[float]): Value of padded pixels before normalising, or one per channel in
            ``channel_order``.
        round_down (bool): Whether sides that keep their proportions lose their fractions. Defaults to False: rounded.
        shrink (str): Interpolation of an image that becomes smaller. Defaults to 'bilinear'.
        enlarge (str): Of one that does not. Defaults to 'bilinear'.
        pad_size (tuple[int, int], optional): Width and height to pad to where ``input_size`` does not fix them.
            Defaults to None.
        letterbox (Letterbox, optional): What happens between resizing and padding; its frame is ``input_size`` where
            that is fixed. Defaults to None.
    """

    classes: tuple[str, ...]
    channel_order: str
    input_size: tuple[int, int] | None
    keep_ratio: bool
    scale: tuple[int, int] | None
    pad_divisor: int
    pad_value: float | list[float]
    round_down: bool = False
    shrink: str = 'bilinear'
    enlarge: str = 'bilinear'
    pad_size: tuple[int, int] | None = None
    letterbox: Letterbox | None = None

    def __post_init__(self) -> None:
        """Follow an ``input_size`` that the file's other rules were not made for."""
        if self.input_size is None:
            return
        frame = self.input_size[::-1]
        if self.letterbox is not None:
            if self.letterbox.scale != frame:
                self.letterbox = replace(self.letterbox, scale=frame)
                self.scale = self.scale and frame
        elif not self.keep_ratio:
            self.scale = frame

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Resize an image; into a fixed input it always fits.

        Args:
            image (np.ndarray): ``(H, W, 3)``.
        """
        height, width = image.shape[:2]
        new_width, new_height = self._new_size(width, height)
        smaller = new_width * new_height < width * height
        image = resize_to(image, new_width, new_height, self.shrink if smaller else self.enlarge)
        return image if self.letterbox is None else self.letterbox.resize(image)

    def _new_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the resized image, before a letterbox; MMCV rounds them so."""
        if not self.keep_ratio:
            return self.scale or (width, height)
        factors = []
        if self.scale:
            factors.append(min(max(self.scale) / max(width, height), min(self.scale) / min(width, height)))
        if self.input_size and self.letterbox is None:
            factors.append(min(self.input_size[0] / height, self.input_size[1] / width))
        factor = min(factors, default=1.0)
        half = 0.0 if self.round_down else 0.5
        return max(1, int(width * factor + half)), max(1, int(height * factor + half))

    def pad(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Pad an image: a letterbox on all sides, the rest at the right and bottom.

        Args:
            image (np.ndarray): Resized, in ``channel_order``, ``(H, W, 3)``.

        Returns:
            tuple[np.ndarray, tuple[int, int]]: The input, and where the image's left and top are in it.
        """
        offset = (0, 0)
        if self.letterbox is not None:
            image, offset = self.letterbox.pad(image)
        height, width = image.shape[:2]
        padded = (-(-height // self.pad_divisor) * self.pad_divisor, -(-width // self.pad_divisor) * self.pad_divisor)
        if self.pad_size:
            padded = (max(height, self.pad_size[1]), max(width, self.pad_size[0]))
        return fill(image, self.input_size or padded, self.pad_value), offset


def read_rules(path: str | PathLike, metadata: dict[str, str], shape: tuple[int, int] | None) -> InputRules:
    """Read the rules from a file's metadata.

    Args:
        path (str | PathLike): The file, for messages.
        metadata (dict[str, str]): JSON values by key.
        shape (tuple[int, int], optional): Height and width that the graph itself takes; None where it takes any.

    Raises:
        UsageError: If something is missing or makes no sense.
    """
    values = {key: _parse(path, key, metadata.get(key)) for key in (*RULES, 'input_size')}
    if missing := [key for key in RULES if values[key] is None]:
        raise UsageError(
            f"ONNX file '{path}' has no metadata {', '.join(missing)}, so nothing says how images become its input: "
            'export it with tools/deploy/export_onnx.py'
        )
    order, resize = values['channel_order'], values['resize']
    if order not in ('RGB', 'BGR'):
        raise UsageError(f"ONNX file '{path}' has channel_order {order!r}; it should be RGB or BGR")
    try:
        return _parse_resize(resize, tuple(map(str, values['classes'])), order, shape or values['input_size'])
    except _UnknownKey as error:
        raise UsageError(
            f"ONNX file '{path}' has metadata resize with {error}, which this version does not know: update MMScale"
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"ONNX file '{path}' has metadata resize {metadata['resize']} and input_size {metadata.get('input_size')}; "
            'they should be like {"keep_ratio": true, "scale": [640, 640], "pad_divisor": 32, "pad_value": 0} and '
            f'[640, 640] or null ({error})'
        ) from error


class _UnknownKey(Exception):
    """Names a rule that would be ignored."""


def _parse_resize(resize: dict, classes: tuple[str, ...], order: str, input_size: Sequence | None) -> InputRules:
    """The rules; keys that a file of an earlier version lacks have the values that they had then."""
    letterbox = resize.get('letterbox')
    for rule, keys in ((resize, KEYS), (letterbox or {}, LETTERBOX_KEYS)):
        if unknown := [key for key in rule if key not in keys]:
            raise _UnknownKey(', '.join(unknown))
    return InputRules(
        classes=classes,
        channel_order=order,
        input_size=input_size and _two(input_size),
        keep_ratio=bool(resize['keep_ratio']),
        scale=_optional(resize.get('scale')),
        pad_divisor=int(resize.get('pad_divisor') or 1),
        pad_value=_pixel(resize.get('pad_value', 0.0)),
        round_down=_one_of('round', resize.get('round', 'nearest'), ('nearest', 'down')) == 'down',
        shrink=_one_of('shrink', resize.get('shrink', 'bilinear'), INTERPOLATIONS),
        enlarge=_one_of('enlarge', resize.get('enlarge', 'bilinear'), INTERPOLATIONS),
        pad_size=_optional(resize.get('pad_size')),
        letterbox=letterbox
        and Letterbox(
            scale=_two(letterbox['scale']),
            scale_up=bool(letterbox['scale_up']),
            interpolation=_one_of('interpolation', letterbox['interpolation'], INTERPOLATIONS),
            pad_value=_pixel(letterbox['pad_value']),
        ),
    )


def _pixel(value: float | Sequence) -> float | list[float]:
    return [float(channel) for channel in value] if isinstance(value, list) else float(value)


def _one_of(key: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f'{key} {value!r} should be one of {", ".join(known)}')
    return value


def _optional(values: Sequence | None) -> tuple[int, int] | None:
    return values and _two(values)


def _two(values: Sequence) -> tuple[int, int]:
    first, second = values
    if int(first) < 1 or int(second) < 1:
        raise ValueError(f'{values} should be positive')
    return int(first), int(second)


def _parse(path: str | PathLike, key: str, text: str | None) -> Any:
    """A JSON value of the metadata."""
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise UsageError(f"ONNX file '{path}' has metadata {key} {text!r}, which is no JSON") from error
