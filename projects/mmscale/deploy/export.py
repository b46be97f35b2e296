"""Write a detector to one ONNX file.

PyTorch's exporter by tracing (``dynamo=False``) writes the graph. The newer one, by ``torch.export``, was tried on the
same detectors with the same results; it takes half a minute where tracing takes a second, needs another package, and
writes opset 18 at the least. Its one advantage is that it refuses code that depends on the traced size, which tracing
makes a constant without a word; :mod:`.check` therefore runs every file at sizes and batches other than the traced one.
"""

import io
import os
import tempfile
import warnings
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from mmscale.analysis.detector import Detector
from mmscale.layers import reparameterize

from .detector import ExportableDetector, find_adapter
from .metadata import describe
from .nms import register_translation

try:
    import onnx
except ImportError:
    onnx = None

__all__ = ['OPSETS', 'OUTPUTS', 'build_exportable', 'build_file', 'write_file']

OUTPUTS = ('boxes', 'scores', 'labels')
OPSETS = range(16, 21)  # GridSample came with 16; tracing knows up to 20
TRACED_SIZE = (256, 320)  # where the size is open: not square, so that an exchanged side shows


def build_exportable(detector: Detector, size: tuple[int, int] | None = None) -> ExportableDetector:
    """A detector in the form that is exported: re-parameterised, with its post-processing.

    Args:
        detector (Detector): The detector; it stays as it is.
        size (tuple[int, int], optional): Height and width of the input. Defaults to None: any.

    Raises:
        ValueError: If the detector cannot be exported, or not with its ``test_cfg``, or not at this size.
    """
    adapter = find_adapter(detector.model)
    exportable = adapter(reparameterize(detector.model), size).eval()
    try:
        with torch.no_grad():
            exportable(_example(detector, size))
    except RuntimeError as error:
        height, width = size or TRACED_SIZE
        raise ValueError(
            f'{detector.name} cannot take an input of {height}x{width}: {str(error).splitlines()[0]}'
        ) from error
    return exportable


def build_file(detector: Detector, size: tuple[int, int] | None = None, opset: int = 17):
    """Export to memory.

    Args:
        detector (Detector): The detector.
        size (tuple[int, int], optional): Height and width of the input. Defaults to None: any.
        opset (int): Version of ONNX's operators, one of :data:`OPSETS`. Defaults to 17.

    Returns:
        onnx.ModelProto: The checked file. Input ``images`` ``(batch, 3, H, W)``; outputs ``boxes``, ``scores`` and
        ``labels``, see :class:`~mmscale.deploy.ExportableDetector`.

    Raises:
        ImportError: If onnx is not installed.
        ValueError: As :func:`build_exportable`; or if ONNX has no operator for a layer, ``opset`` is out of range, or
            the config's test pipeline does what the file's metadata cannot say.
    """
    if onnx is None:
        raise ImportError('onnx, which exported files are written with, is not installed: pip install onnx')
    if opset not in OPSETS:
        raise ValueError(f'opset={opset} is not supported: choose one from {OPSETS[0]} to {OPSETS[-1]}')
    exportable = build_exportable(detector, size)
    metadata = describe(detector, size)
    example = _example(detector, size)
    with torch.no_grad():
        count = exportable(example)[1].shape[1]
    model = onnx.load_model_from_string(_trace(exportable, example, opset, detector.name))
    _require_onnx_only(model, detector.name)
    for output, shape in zip(model.graph.output, ((count, 4), (count,), (count,)), strict=True):
        for dim, value in zip(list(output.type.tensor_type.shape.dim)[1:], shape, strict=True):
            dim.Clear()  # known, but not to the exporter
            dim.dim_value = value
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    return model


def write_file(model, path: str | PathLike) -> None:
    """Write an ONNX file whole or not at all, and make its folder.

    Args:
        model (onnx.ModelProto): The file's content.
        path (str | PathLike): Its name; a file that exists is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.partial')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(model.SerializeToString())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _example(detector: Detector, size: tuple[int, int] | None) -> Tensor:
    """What the graph is traced with: two images of gray noise."""
    height, width = size or TRACED_SIZE
    device = next(detector.model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, 3, height, width, generator=generator) * 255).to(device)


def _trace(exportable: ExportableDetector, example: Tensor, opset: int, name: str) -> bytes:
    """The graph of an exportable detector."""
    register_translation(opset)
    axes = {key: {0: 'batch'} for key in ('images', *OUTPUTS)}
    if exportable.size is None:
        axes['images'] |= {2: 'height', 3: 'width'}
    file = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')  # of every size that becomes a constant, rightly or not: see `check`
            torch.onnx.export(
                exportable,
                (example,),
                file,
                dynamo=False,
                opset_version=opset,
                input_names=['images'],
                output_names=list(OUTPUTS),
                dynamic_axes=axes,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'{name} cannot be exported with opset {opset}: {reason}') from error
    return file.getvalue()


def _require_onnx_only(model, name: str) -> None:
    """Refuse a graph with operators that only MMCV's own runtime would know."""
    nodes = [node for node in model.graph.node if node.domain not in ('', 'ai.onnx')]
    foreign = sorted({f'{node.domain}::{node.op_type}' for node in nodes})
    if foreign:
        raise ValueError(f'{name} cannot be exported: ONNX has no operator for {", ".join(foreign)}')
