"""Parameters and multiply-adds of a model, in the convention of the figures that papers print.

**What is counted.** One image, eval mode, through ``model.forward(inputs, data_samples, mode='tensor')`` after the
model's data pre-processor: backbone, neck and heads without the last post-processing, as MMDetection's ``get_flops.py``
does. The operators' conventions stand in :mod:`mmscale.analysis.op_counter`; ``macs`` is the total of all kinds, which
is what ``mmengine.analysis.get_model_complexity_info`` calls "flops", and ``flops`` is twice that.

**Two-stage detectors** run their region proposal network's own proposals: ``test_cfg.rpn.max_per_img`` of them (1000)
once the image is large enough, each costing the box head its 14.3 M multiply-adds (14.3 G of Faster R-CNN's 134.6 G).
The mask head sees the first 100, as MMDetection does in this mode. ``proposals`` reports the number; the weights are
random, so on a small image the number left after the proposals' NMS depends on the seed.

**Segmentors** of MMSegmentation are backbone, neck and decode head, before their maps are resized to the image.

**Not counted, but listed** in ``unknown`` with the number of calls: operators without a formula, for instance RoIAlign.
"""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmscale.files import markdown_table

from .model import build_model, check_input_size, load_config, random_batch
from .op_counter import OpCounter
from .proposals import noted_proposals

__all__ = ['Complexity', 'complexity', 'complexity_table']


@dataclass(frozen=True)
class Complexity:
    """What :func:`complexity` found.

    Attributes:
        name (str): The config's file name, or the module's class.
        input_size (tuple[int, int] | None): Height and width that were asked for.
        padded_size (tuple[int, int] | None): Height and width that the network saw after its pre-processor.
        params (int): Parameters; one that several modules share counts once. Buffers are none.
        trainable_params (int): Those with ``requires_grad``.
        macs (int): Multiply-adds of all kinds.
        by_kind (dict[str, dict[str, int]]): ``calls`` and ``macs`` of each kind of operator, the most expensive first.
        by_module (dict[str, int]): Multiply-adds of the model's direct children.
        unknown (dict[str, int]): Calls of operators that have no formula.
        proposals (int | None): Proposals that the RoI head got; None without a region proposal network.
    """

    name: str
    input_size: tuple[int, int] | None
    padded_size: tuple[int, int] | None
    params: int
    trainable_params: int
    macs: int
    by_kind: dict[str, dict[str, int]] = field(default_factory=dict)
    by_module: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    proposals: int | None = None

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiply-add is two."""
        return 2 * self.macs

    def to_dict(self) -> dict[str, Any]:
        """All fields and ``flops``, ready for JSON."""
        return dict(asdict(self), flops=self.flops)


def complexity(model: nn.Module | Config | str | PathLike, input_size: int | Sequence[int] = (800, 800), *,
               inputs: Sequence[Any] | None = None, cfg_options: dict | None = None, seed: int = 0) -> Complexity:
    """Counts a detector's parameters and multiply-adds.

    Args:
        model (nn.Module | Config | str | PathLike): A config or its file (built without loading weights), a built
            detector, or any
            module.
        input_size (Sequence[int]): Height and width of the image. Defaults to (800, 800).
        inputs (Sequence, optional): Positional arguments for a module that is no detector, instead of one image
            (1, 3, H, W). Defaults to None.
        cfg_options (dict, optional): Overrides of the config by dotted key. Defaults to None.
        seed (int): Of random weights and pixels. Defaults to 0.

    Returns:
        Complexity: The counts.

    Example:
        >>> import torch
        >>> result = complexity(torch.nn.Linear(64, 10), inputs=[torch.zeros(5, 64)])
        >>> result.params, result.macs, result.flops
        (650, 3200, 6400)
    """
    if isinstance(model, nn.Module):
        if cfg_options:
            raise ValueError(f'cfg_options={cfg_options!r} overrides a config, but model is a {type(model).__name__}')
        name = type(model).__name__
    else:
        cfg = load_config(model, cfg_options)
        name = Path(str(cfg.filename or cfg.model.type)).stem
        model = build_model(cfg, seed=seed)
    size = padded = None
    kwargs: dict[str, Any] = {}
    if inputs is None:
        size = check_input_size(input_size)
        if hasattr(model, 'data_preprocessor'):
            batch, samples = random_batch(model, size, seed=seed)
            inputs, kwargs = (batch,), dict(data_samples=samples, mode='tensor')
        else:
            parameter = next(model.parameters(), torch.empty(0))
            inputs = (torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype),)
        padded = tuple(inputs[0].shape[-2:])
    counter = OpCounter()
    with _counting(model), noted_proposals(model) as proposals, torch.no_grad(), counter:
        model(*inputs, **kwargs)
    parameters = list(model.parameters())
    root = type(model).__name__ + '.'
    return Complexity(
        name=name, input_size=size, padded_size=padded,
        params=sum(parameter.numel() for parameter in parameters),
        trainable_params=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        macs=counter.total,
        by_kind={kind: dict(calls=counter.calls[kind], macs=macs) for kind, macs in counter.macs.most_common()},
        by_module={child: counter.by_module[root + child] for child, _ in model.named_children()
                   if counter.by_module[root + child]},
        unknown=dict(counter.unknown.most_common()),
        proposals=sum(proposals) if proposals else None)


def complexity_table(results: Sequence[Complexity]) -> str:
    """A Markdown table of several results, with differences to the first, then each one's operators.

    Args:
        results (Sequence[Complexity]): One or more results.
    """
    first = results[0]
    rows = [['config', 'params (M)', 'GMACs', 'GFLOPs', 'd params (M)', 'd GMACs', 'network input', 'proposals']]
    for result in results:
        rows.append([
            result.name, f'{result.params / 1e6:.3f}', f'{result.macs / 1e9:.3f}', f'{result.flops / 1e9:.3f}',
            *(('', '') if result is first else
              (f'{(result.params - first.params) / 1e6:+.3f}', f'{(result.macs - first.macs) / 1e9:+.3f}')),
            'x'.join(map(str, result.padded_size)) if result.padded_size else '',
            '' if result.proposals is None else str(result.proposals)])
    parts = [markdown_table(rows, right=range(1, 6))]
    for result in results:
        rows = [['operators', 'calls', 'GMACs', 'share']]
        for kind, entry in result.by_kind.items():
            rows.append([kind, str(entry['calls']), f"{entry['macs'] / 1e9:.4f}",
                         f"{entry['macs'] / max(result.macs, 1):.2%}"])
        rows += [[f'{name} (unknown)', str(calls), 'not counted', ''] for name, calls in result.unknown.items()]
        modules = ', '.join(f'{name} {macs / 1e9:.3f}' for name, macs in result.by_module.items()) or 'none'
        parts.append(f'{result.name}\n{markdown_table(rows, right=range(1, 4))}\nGMACs by module: {modules}')
    return '\n\n'.join(parts)


@contextmanager
def _counting(model: nn.Module) -> Iterator[None]:
    """Eval mode and no parameter to be trained, and all as it was afterwards.

    PyTorch's module tracker puts hooks on inputs that require a gradient, such as views of Deformable DETR's queries,
    and fails on them without a graph.
    """
    training = [module for module in model.modules() if module.training]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trained:
            parameter.requires_grad = True
