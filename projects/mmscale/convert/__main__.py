"""``python -m mmscale.convert``, for where there is no checkout."""

from .command import main

if __name__ == '__main__':
    main()
