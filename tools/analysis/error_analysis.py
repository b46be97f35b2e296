"""Errors of a baseline and a candidate side by side, by size, class and cause (docs/error_analysis.md)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.analysis.error_analysis_command import main

if __name__ == '__main__':
    main()
