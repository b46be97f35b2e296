"""How an image becomes the input of an exported detector, as the ONNX file's own metadata says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import mmcv
import numpy as np

from mmscale.engine.cli import UsageError

__all__ = ['InputRules', 'read_rules']

RULES = ('classes', 'channel_order', 'resize')


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
    """

    classes: tuple[str, ...]
    channel_order: str
    input_size: tuple[int, int] | None
    keep_ratio: bool
    scale: tuple[int, int] | None
    pad_divisor: int
    pad_value: float | Sequence[float]

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Resize an image; into a fixed input it always fits.

        Args:
            image (np.ndarray): ``(H, W, 3)``.
        """
        height, width = image.shape[:2]
        new_width, new_height = self._new_size(width, height)
        return image if (new_width, new_height) == (width, height) else mmcv.imresize(image, (new_width, new_height))

    def _new_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the resized image; MMCV rounds them so."""
        if not self.keep_ratio:
            return self.scale or (self.input_size or (height, width))[::-1]
        factors = []
        if self.scale:
            factors.append(min(max(self.scale) / max(width, height), min(self.scale) / min(width, height)))
        if self.input_size:
            room = min(self.input_size[0] / height, self.input_size[1] / width)
            factors = [min([*factors, room])]
        factor = factors[0] if factors else 1.0
        return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))

    def pad(self, image: np.ndarray) -> np.ndarray:
        """Pad an image at the right and bottom.

        Args:
            image (np.ndarray): Resized, in ``channel_order``, ``(H, W, 3)``.
        """
        height, width = image.shape[:2]
        divisor = self.pad_divisor
        padded = self.input_size or (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
        if padded == (height, width):
            return image
        canvas = np.empty((*padded, 3), image.dtype)
        canvas[:] = self.pad_value
        canvas[:height, :width] = image
        return canvas


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
        scale, pad = resize.get('scale'), resize.get('pad_value', 0.0)
        rules = InputRules(
            classes=tuple(map(str, values['classes'])),
            channel_order=order,
            input_size=shape or (values['input_size'] and _two(values['input_size'])),
            keep_ratio=bool(resize['keep_ratio']),
            scale=scale and _two(scale),
            pad_divisor=int(resize.get('pad_divisor') or 1),
            pad_value=[float(value) for value in pad] if isinstance(pad, list) else float(pad),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"ONNX file '{path}' has metadata resize {metadata['resize']} and input_size {metadata.get('input_size')}; "
            'they should be like {"keep_ratio": true, "scale": [640, 640], "pad_divisor": 32, "pad_value": 0} and '
            '[640, 640] or null'
        ) from error
    if not rules.keep_ratio and rules.scale and rules.input_size and rules.scale != rules.input_size[::-1]:
        rules.scale = None  # the graph was made for another size than its config's; images are stretched to that
    return rules


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
