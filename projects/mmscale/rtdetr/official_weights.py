"""Backbones that load the official ImageNet weights under their official names, and wholly or not at all.

Ours to decide: MMEngine's ``Pretrained`` loads what fits and logs the rest, which may be nothing or half a backbone,
and training goes on. Here weights that an ``init_cfg`` names must fill the backbone; if not, an error says what is
wrong. A checkpoint that is loaded otherwise (``load_from``, ``resume``, ``load_state_dict``) is renamed in the same way
and checked by whoever loads it.
"""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor

__all__ = ['OfficialWeights', 'check_stages']


class OfficialWeights(BaseModule):
    """Base of a backbone that reads checkpoints with the official names as well as with its own.

    A subclass says which official name belongs to which of its own.
    """

    @staticmethod
    def own_name(name: str) -> str:
        """Our name of an official parameter or buffer; any other name stays."""
        raise NotImplementedError

    @staticmethod
    def official_name(name: str) -> str:
        """The official name of one of our parameters or buffers; any other name stays."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says.

        Raises:
            ValueError: If ``init_cfg`` names a checkpoint that lacks weights of the backbone, has them in another
                shape, or has more of them. A classifier's weights and those of stages that are not built may be there.
        """
        configs = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg]
        sources = [str(cfg['checkpoint']) for cfg in configs if cfg and 'checkpoint' in cfg]

        def check(module, state_dict, prefix, *_):
            module._check_complete(', '.join(sources), state_dict, prefix)

        handle = self.register_load_state_dict_pre_hook(check)
        try:
            super().init_weights()
        finally:
            handle.remove()

    @property
    def _parts(self) -> list[str]:
        """Names of the stem and of every stage that is built."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Rename what has an official name: torch's and MMEngine's loaders both come by here, before the children."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = prefix + self.own_name(key[len(prefix) :])
            if name not in state_dict:
                state_dict[name] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_complete(self, source: str, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Refuse weights that do not fill the backbone; batch norm's counters may be absent, as in frozen ones."""
        # What is no tensor has no shape: the entries of a whole training checkpoint, for one.
        given = {k[len(prefix) :]: getattr(v, 'shape', None) for k, v in state_dict.items() if k.startswith(prefix)}
        own = {key: value.shape for key, value in self.state_dict().items()}
        missing = [key for key in own if key not in given and not key.endswith('num_batches_tracked')]
        reshaped = [
            f'{key}: {tuple(given[key])}, not {tuple(own[key])}' for key in own if given.get(key, own[key]) != own[key]
        ]
        parts = tuple(f'{part}.' for part in self._parts)
        strange = [key for key in given if key not in own and (missing or key.startswith(parts))]
        if missing or reshaped or strange:
            found = [('missing', missing), ('of another shape', reshaped), ('unknown', strange)]
            raise ValueError(
                f"the weights '{source}' of init_cfg do not fit this {type(self).__name__}: "
                + '; '.join(f'{len(names)} {what} ({_some(names)})' for what, names in found if names)
            )


def check_stages(out_indices: Sequence[int], frozen_stages: int, count: int) -> None:
    """Refuse stages that a backbone does not have.

    Args:
        out_indices (Sequence[int]): Stages whose maps are returned, from 0.
        frozen_stages (int): -1 for none, 0 for the stem, n for the first n stages too.
        count (int): Number of stages.

    Raises:
        ValueError: If one is out of range, or ``out_indices`` is empty or not in ascending order.
    """
    stages = [] if isinstance(out_indices, int) else list(out_indices)
    if not stages or stages != sorted(set(stages)) or stages[0] < 0 or stages[-1] >= count:
        raise ValueError(f'out_indices={out_indices!r} must list stages from 0 to {count - 1} in ascending order')
    if not -1 <= frozen_stages <= count:
        raise ValueError(
            f'frozen_stages={frozen_stages} must be -1 (none), 0 (the stem), or the number of stages to freeze with '
            f'the stem, up to {count}'
        )


def _some(names: list[str], limit: int = 3) -> str:
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')
