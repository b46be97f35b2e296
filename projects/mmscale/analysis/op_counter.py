"""Counts multiply-adds operator by operator while a network really runs.

The counter sits where PyTorch dispatches to its kernels, so it sees what runs, whatever Python wrote it: a convolution,
an ``einsum``, fused attention. Three things can happen to an operator, and none of them is silence:

- it has a formula and is **counted**;
- it is **free by convention**: element-wise arithmetic, reductions, softmax, pooling, sorting, copying, indexing;
- it is neither, and is **listed as unknown** with the number of its calls. So is every ``torch.autograd.Function``
  without a formula (RoIAlign, NMS and the other compiled operators of MMCV): its compiled code cannot be seen.

The costs stand in :mod:`mmscale.analysis.op_costs`.
"""
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker

from .op_costs import FORMULAS, FUNCTIONS, base_name, is_free

__all__ = ['OpCounter']


class OpCounter:
    """Counts multiply-adds of everything that runs inside its ``with`` block.

    Attributes:
        macs (Counter[str]): Multiply-adds of each kind of operator.
        calls (Counter[str]): Calls of each kind of operator.
        by_module (Counter[str]): Multiply-adds inside each module, by its name, for instance ``'FasterRCNN.backbone'``;
            a
            module contains its children, and ``'Global'`` contains all.
        unknown (Counter[str]): Calls of operators that are neither counted nor free.

    Example:
        >>> import torch
        >>> layer = torch.nn.Conv2d(3, 8, 3, padding=1)
        >>> with torch.no_grad(), OpCounter() as counter:
        ...     out = layer(torch.zeros(1, 3, 4, 4))
        >>> dict(counter.macs)
        {'convolution': 3456}
    """

    def __init__(self) -> None:
        self.macs: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.by_module: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self._modules = ModuleTracker()
        self._muted = False
        self._stack = ExitStack()

    @property
    def total(self) -> int:
        """Multiply-adds of all kinds together."""
        return sum(self.macs.values())

    def __enter__(self) -> 'OpCounter':
        self._stack.enter_context(_plain_multihead_attention())
        self._stack.enter_context(_watched_functions(self))
        self._stack.enter_context(self._modules)
        self._stack.enter_context(_CountingMode(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Counts nothing inside: its cost is already known as a whole."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    def add(self, macs: dict[str, int]) -> None:
        """Books one call of an operator, given its multiply-adds by kind."""
        if self._muted:
            return
        for kind, count in macs.items():
            self.macs[kind] += count
            self.calls[kind] += 1
            for module in self._enclosing_modules():
                self.by_module[module] += count

    def _enclosing_modules(self) -> set[str]:
        """Names of the modules that run now, and of their parents: MMDetection calls ``bbox_head.forward`` past its
        hooks."""
        return {'.'.join(parts[:end + 1]) for parts in (name.split('.') for name in self._modules.parents)
                for end in range(len(parts))}

    def add_unknown(self, name: str) -> None:
        """Books one call of an operator that has no formula."""
        if not self._muted:
            self.unknown[name] += 1


class _CountingMode(TorchDispatchMode):
    """Hands every operator that PyTorch dispatches to the counter."""

    supports_higher_order_operators = True

    def __init__(self, counter: OpCounter) -> None:
        super().__init__()
        self.counter = counter
        self.free: dict[Any, bool] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):  # a higher-order operator, for instance flex_attention
            self.counter.add_unknown(str(func))
            return func(*args, **kwargs)
        formula = FORMULAS.get(base_name(func)) if func.namespace == 'aten' else None
        if formula is None:
            with self:  # an operator made of others counts as those (under inference_mode they arrive undivided)
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if formula is not None:
            kind, count = formula
            self.counter.add({kind: count(args, kwargs, out)})
        else:
            if func not in self.free:
                self.free[func] = is_free(func)
            if not self.free[func]:
                self.counter.add_unknown(str(func.overloadpacket))
        return out


@contextmanager
def _plain_multihead_attention() -> Iterator[None]:
    """In eval mode nn.MultiheadAttention is one operator that hides its products; the plain path computes the same."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


@contextmanager
def _watched_functions(counter: OpCounter) -> Iterator[None]:
    """Lets the counter see autograd functions: their compiled code does not pass PyTorch's dispatcher."""
    watched = []
    try:
        for cls in set(_subclasses(torch.autograd.Function)):
            if 'forward' in vars(cls) and not cls.__module__.startswith('torch.'):
                watched.append((cls, vars(cls)['forward']))
                cls.forward = staticmethod(_watch(counter, cls.__name__, cls.forward))
        yield
    finally:
        for cls, forward in watched:
            cls.forward = forward


def _watch(counter: OpCounter, name: str, forward: Callable) -> Callable:
    formula = FUNCTIONS.get(name)

    def watched_forward(*args: Any, **kwargs: Any) -> Any:
        if formula is None:
            counter.add_unknown(name)
            return forward(*args, **kwargs)
        with counter.muted():
            out = forward(*args, **kwargs)
        counter.add(formula(args, kwargs, out))
        return out

    return watched_forward
