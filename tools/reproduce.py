"""The papers' tables: list, show, check, complexity, speed, train, report (see docs/reproduce.md)."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'projects'))  # this checkout's

from mmscale.reproduce.cli import main

if __name__ == '__main__':
    main()
