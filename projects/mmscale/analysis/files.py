"""Moved to :mod:`mmscale.files`."""
from mmscale.files import markdown_table, write_json, write_text  # noqa: F401
