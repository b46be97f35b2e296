"""The one place where MMScale's version is written."""
__version__ = '0.1.0'
