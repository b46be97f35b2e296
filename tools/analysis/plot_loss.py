"""Losses of several trainings over the epochs, and the epochs that each needs to a given loss (docs/loss_curves.md)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.analysis.loss_curves_command import main

if __name__ == '__main__':
    main()
