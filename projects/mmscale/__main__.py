"""``python -m mmscale``: the stack that was found, what does not fit, and the command that mends it."""
import argparse
import sys

from . import stack

if __name__ == '__main__':
    argparse.ArgumentParser(prog='python -m mmscale', description='Print the packages that MMScale stands on, whether '
                            'they work together, and the command that mends what does not.').parse_args()
    sys.exit(stack.main())
