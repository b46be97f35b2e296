"""Train a detector: ``python tools/train.py <config>`` (see docs/train_and_test.md)."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'projects'))  # this checkout's

from mmscale.engine.train import main

if __name__ == '__main__':
    main()
