"""``python -m mmscale.reproduce``: as ``tools/reproduce.py``, from an installed package."""

from .cli import main

if __name__ == '__main__':
    main()
