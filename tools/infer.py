"""Detect objects in images, folders, globs and videos: ``python tools/infer.py`` (see docs/inference.md)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'projects'))  # this checkout's

from mmscale.inference.command import main

if __name__ == '__main__':
    main()
