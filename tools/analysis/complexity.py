"""Parameters and multiply-adds of one or more configs: a table with differences to the first, and JSON."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.analysis.complexity_command import main

if __name__ == '__main__':
    main()
