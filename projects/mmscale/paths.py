"""Where the package's own files lie, in a checkout and in an installed wheel."""

from pathlib import Path

__all__ = ['config_root']


def config_root() -> Path:
    """The folder of MMScale's configs: the checkout's ``configs/`` if this package lies in one, else the wheel's copy.

    A checkout wins over a copy that an earlier build left in the package, which would hide every edit since.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parents[1] / 'configs'
    return checkout if (checkout / '_base_' / 'default_runtime.py').is_file() else package / '.mim' / 'configs'
