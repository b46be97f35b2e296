"""``python -m mmscale.convert.ultralytics``, for where there is no checkout."""

from .command import main

if __name__ == '__main__':
    main()
