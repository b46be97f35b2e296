"""Tensors inside a network, by name: what flows into and out of a module.

backbone.layer3          the output of a module, by its name in ``model.named_modules()``
backbone:out2            the third of several outputs (nested tuples and dictionaries are flattened in order)
neck.fine.2:in0          its first input
bbox_head.cls_convs.0@3  the fourth call of a module that runs once per level (without ``@`` the first)
neck.fine.2:in0/4        after average pooling over 4x4 regions, ragged edges over their valid pixels
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['Tap', 'capture', 'parse_taps', 'require_whole_image', 'resolve_outputs']

PATTERN = re.compile(r'(?P<module>[^:@/\s]+)(?::(?P<side>in|out)(?P<index>\d*))?(?:@(?P<call>\d+))?(?:/(?P<pool>\d+))?')


@dataclass(frozen=True)
class Tap:
    """A place in a network.

    Args:
        module (str): Name in ``model.named_modules()``.
        side (str): ``'in'`` or ``'out'``. Defaults to 'out'.
        index (int, optional): Which of several tensors. Defaults to None: there must be only one.
        call (int): Which call of the module within one forward. Defaults to 0, the first.
        pool (int): Side of the regions that are averaged. Defaults to 1: none.
        text (str): As the user wrote it. Defaults to ''.
    """

    module: str
    side: str = 'out'
    index: int | None = None
    call: int = 0
    pool: int = 1
    text: str = ''

    @classmethod
    def parse(cls, text: str) -> 'Tap':
        """Read a name.

        Raises:
            ValueError: If it is not of the form ``module[:in0|:out0][@call][/pool]``.

        Example:
            >>> tap = Tap.parse('neck.fine.2:in1/2')
            >>> tap.module, tap.side, tap.index, tap.call, tap.pool
            ('neck.fine.2', 'in', 1, 0, 2)
        """
        match = PATTERN.fullmatch(text)
        if match is None or match['pool'] == '0':
            raise ValueError(
                f'layer {text!r} should be a module name, optionally with :in0 or :out0 for one of its inputs or '
                'outputs, @2 for its third call and /4 for 4x4 average pooling, in this order'
            )
        return cls(
            module=match['module'],
            side=match['side'] or 'out',
            index=int(match['index']) if match['index'] else None,
            call=int(match['call'] or 0),
            pool=int(match['pool'] or 1),
            text=text,
        )

    def __str__(self) -> str:
        return self.text or self.module

    def select(self, values: list[Tensor]) -> Tensor:
        """The feature map among a call's inputs or outputs, pooled.

        Args:
            values (list[Tensor]): The call's tensors on this side.

        Returns:
            Tensor: ``(B, C, H, W)``.

        Raises:
            ValueError: If the index is missing or too large, or the tensor is no feature map.
        """
        sort = {'in': 'input', 'out': 'output'}[self.side]
        if self.index is None and len(values) != 1:
            choices = ', '.join(f'{self.module}:{self.side}{i}' for i in range(len(values))) or 'another layer'
            raise ValueError(f"layer '{self}' has {len(values)} {sort} tensors: choose {choices}")
        index = self.index or 0
        if index >= len(values):
            raise ValueError(f"layer '{self}' asks for {sort} {index}, but the module has {len(values)}, from 0")
        tensor = values[index]
        if tensor.ndim != 4:
            raise ValueError(
                f"layer '{self}' gives a tensor of shape {tuple(tensor.shape)}; a feature map (B, C, H, W) is wanted"
            )
        if self.pool == 1:
            return tensor
        if self.pool > min(tensor.shape[-2:]):
            raise ValueError(
                f"layer '{self}' pools over {self.pool}x{self.pool}, but its map is only "
                f'{tensor.shape[-2]}x{tensor.shape[-1]}'
            )
        return F.avg_pool2d(tensor, self.pool, ceil_mode=True, count_include_pad=False)


def parse_taps(model: nn.Module, names: Sequence[str]) -> list[Tap]:
    """Read names and check that the model has these modules.

    Args:
        model (nn.Module): The network.
        names (Sequence[str]): As described at the top of this module.

    Raises:
        ValueError: If a name is malformed or the model has no such module; the closest ones are named.
    """
    known = [name for name, _ in model.named_modules() if name]
    taps = [Tap.parse(name) for name in names]
    for tap in taps:
        if tap.module not in known:
            near = difflib.get_close_matches(tap.module, known, n=3, cutoff=0.5)
            hint = f'did you mean {" or ".join(near)}?' if near else f'its parts are {", ".join(top_level(model))}'
            raise ValueError(f"the model has no module '{tap.module}': {hint}")
    return taps


def require_whole_image(tap: Tap, feature: Tensor) -> None:
    """Refuse a map that is not of the one image that went in, such as the regions of a two-stage detector's head.

    Raises:
        ValueError: If there is not exactly one map.
    """
    if len(feature) != 1:
        raise ValueError(
            f"layer '{tap}' gives {len(feature)} maps for one image (of its regions?); choose one that sees it whole"
        )


def top_level(model: nn.Module) -> list[str]:
    """Names of the model's direct children."""
    return [name for name, _ in model.named_children()]


def capture(model: nn.Module, taps: Sequence[Tap], run: Callable[[], Any], stop: bool = True) -> tuple[list, Any]:
    """Run a network and return the tensors at the taps, as they were before anything changed them in place.

    Args:
        model (nn.Module): The network.
        taps (Sequence[Tap]): Where to look.
        run (Callable): Runs one forward of the network.
        stop (bool): Whether to end the forward as soon as everything has been seen. Defaults to True.

    Returns:
        tuple[list[Tensor], Any]: A feature map ``(B, C, H, W)`` per tap, part of autograd's graph; and what ``run``
        returned, None if it was stopped.

    Raises:
        ValueError: If the forward does not call a module (often enough), or a tensor there is no feature map.
    """
    modules = dict(model.named_modules())
    waiting = {(tap.module, tap.side, tap.call) for tap in taps}
    seen: dict[tuple[str, str, int], list[Tensor]] = {}
    calls: dict[tuple[str, str], int] = {}

    def note(name: str, side: str, values: Any) -> None:
        key = (name, side, calls.get((name, side), 0))
        calls[name, side] = key[-1] + 1
        if key in waiting:
            waiting.remove(key)
            seen[key] = [tensor.clone() for tensor in _tensors(values)]
            if stop and not waiting:
                raise _Seen

    handles, result = [], None
    for name, side in {(tap.module, tap.side) for tap in taps}:
        handles.append(_hook(modules[name], name, side, note))
    try:
        result = run()
    except _Seen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    for tap in taps:
        if (tap.module, tap.side, tap.call) in waiting:
            times = calls.get((tap.module, tap.side), 0)
            raise ValueError(
                f"layer '{tap}' is not reached: the forward calls module '{tap.module}' {times} times, and "
                + ('a module around it or inside it may be' if not times else f'@0 to @{times - 1} would be')
                + ' within reach'
            )
    return [tap.select(seen[tap.module, tap.side, tap.call]) for tap in taps], result


def resolve_outputs(model: nn.Module, module: str, run: Callable[[], Any]) -> list[str]:
    """Names of all outputs of a module, for instance of a backbone's stages.

    Args:
        model (nn.Module): The network.
        module (str): The module's name.
        run (Callable): Runs one forward of the network.

    Returns:
        list[str]: ``['backbone:out0', 'backbone:out1', ...]``.
    """
    outputs = []

    def note(name: str, side: str, values: Any) -> None:
        outputs.extend(_tensors(values))
        raise _Seen

    handle = _hook(dict(model.named_modules())[module], module, 'out', note)
    try:
        run()
    except _Seen:
        pass
    finally:
        handle.remove()
    return [f'{module}:out{index}' for index in range(len(outputs))]


def _hook(module: nn.Module, name: str, side: str, note: Callable[[str, str, Any], None]):
    """Call ``note`` with what a module gets or gives."""
    if side == 'in':
        return module.register_forward_pre_hook(
            lambda _, args, kwargs: note(name, side, (args, kwargs)), with_kwargs=True
        )
    return module.register_forward_hook(lambda _, args, output: note(name, side, output))


def _tensors(values: Any) -> list[Tensor]:
    """All tensors of nested lists, tuples and dictionaries, in order."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, (list, tuple)) else []


class _Seen(Exception):
    """Ends a forward that has shown all that is wanted."""
