"""What stands for numpy's and mmengine's types while a checkpoint is unpickled under torch's protection.

The types themselves trust what a file says: numpy's ``scalar`` reads memory that is not there, a dtype or an array
takes any state, and mmengine's ``HistoryBuffer`` writes what it finds in the file into its class. Each stand-in below
takes the place of one of them, by its name in the file, and accepts what mmengine's own checkpoints hold: numbers,
arrays of numbers and buffers with their own methods. Anything else is refused by name.
"""
import math
import pickle
import re
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

__all__ = ['STAND_INS']


def _refuse(what: str) -> NoReturn:
    """Refuse what a file holds; ``checkpoint.fault`` reads the culprit from the word after GLOBAL."""
    what = re.sub(r'\s+', '', what)[:200]
    raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {what} is not allowed here')


class _DType:
    """``numpy.dtype``: of a number or a bool. It stays a description; a real dtype would take any state later."""

    def __init__(self, code: str, *copy) -> None:
        if not isinstance(code, str) or re.fullmatch('b1|[iu][1248]|f[248]', code) is None:
            _refuse(f'numpy.dtype({code!r})')
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if len(state) != 8 or state[1] not in ('<', '>', '|', '=') or state[2:] != (None, None, None, -1, -1, 0):
            _refuse(f'numpy.dtype({self.value.str!r})')
        self.value = self.value.newbyteorder(state[1])


def _scalar(dtype: _DType, data: bytes) -> np.generic:
    """``numpy.core.multiarray.scalar``: a number of exactly the bytes that its type has."""
    if type(dtype) is not _DType or type(data) is not bytes or len(data) != dtype.value.itemsize:
        _refuse('numpy.core.multiarray.scalar')
    return np.frombuffer(data, dtype.value)[0]


class _Array(np.ndarray):
    """``numpy.ndarray``: numbers, written once (a tensor may share them). It is pickled as a plain array again."""

    def __new__(cls, *args, **kwargs):
        _refuse('numpy.ndarray')

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if (hasattr(self, '_written') or type(dtype) is not _DType or type(shape) is not tuple
                or any(type(length) is not int or length < 0 for length in shape) or type(data) is not bytes
                or len(data) != math.prod(shape) * dtype.value.itemsize):
            _refuse('numpy.ndarray')
        super().__setstate__((1, shape, dtype.value, bool(fortran), data))
        self._written = True

    def __reduce_ex__(self, protocol):
        return np.asarray(self).__reduce_ex__(protocol)


def _reconstruct(subtype: type, shape: tuple, code: bytes) -> _Array:
    """``numpy.core.multiarray._reconstruct``: the empty array that pickle fills in its next step."""
    if subtype is not _Array or shape != (0,) or code != b'b':
        _refuse('numpy.core.multiarray._reconstruct')
    return np.ndarray.__new__(_Array, (0,), 'b')


class _HistoryBuffer:
    """``HistoryBuffer``: becomes one with its state, if its methods go by their own names; its class stays as it is."""

    def __setstate__(self, state: dict) -> None:
        name = f'{HistoryBuffer.__module__}.{HistoryBuffer.__name__}'
        for key, method in state.get('statistics_methods', {}).items():
            if method is not METHODS[_HistoryBuffer].get(key):
                _refuse(f'{name}({key}={getattr(method, "__name__", "?")})')
        history, count, length = (state[key] for key in ('_log_history', '_count_history', 'max_length'))
        if (type(history) is not _Array or type(count) is not _Array or history.ndim != 1
                or history.shape != count.shape or type(length) is not int):
            _refuse(name)
        self._log_history, self._count_history, self.max_length = np.array(history), np.array(count), length
        self.__class__ = HistoryBuffer
        self._set_default_statistics()


class _OneCycle:
    """``OneCycleParamScheduler``: only the owner of its methods, never built."""

    def __new__(cls, *args, **kwargs):
        _refuse(f'{OneCycleParamScheduler.__module__}.{OneCycleParamScheduler.__name__}')


# Whose methods checkpoints name, and which.
METHODS = {
    _HistoryBuffer: {name: getattr(HistoryBuffer, name) for name in ('min', 'max', 'mean', 'current')},
    _OneCycle: {name: getattr(OneCycleParamScheduler, name) for name in ('_annealing_cos', '_annealing_linear')}}


def _method_of(owner: type, name: str) -> Callable:
    """``getattr``: it finds ``METHODS`` and nothing else."""
    if not isinstance(owner, type) or not isinstance(name, str) or name not in METHODS.get(owner, ()):
        _refuse('builtins.getattr')
    return METHODS[owner][name]


# As torch.serialization.add_safe_globals takes them: the object, and the name that it goes by in a file. numpy 2 writes
# numpy._core, numpy 1 numpy.core.
STAND_INS = [
    (_method_of, 'builtins.getattr'), (_DType, 'numpy.dtype'), (_Array, 'numpy.ndarray'),
    (_HistoryBuffer, f'{HistoryBuffer.__module__}.{HistoryBuffer.__name__}'),
    (_OneCycle, f'{OneCycleParamScheduler.__module__}.{OneCycleParamScheduler.__name__}'),
    *((stand_in, f'numpy.{core}.multiarray.{name}') for core in ('_core', 'core')
      for stand_in, name in ((_reconstruct, '_reconstruct'), (_scalar, 'scalar')))]
