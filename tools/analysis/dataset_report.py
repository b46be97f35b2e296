"""Sizes, numbers, classes, faults and leaks of a config's data sets, before training (docs/dataset_report.md)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.analysis.dataset_report.command import main

if __name__ == '__main__':
    main()
