"""Test a detector: ``python tools/test.py <config> <checkpoint>`` (see docs/train_and_test.md)."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'projects'))  # this checkout's

from mmscale.engine.test import main

if __name__ == '__main__':
    main()
