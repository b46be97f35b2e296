"""Reading annotation files so that every fault names the file and, where the format has lines, the line."""
import json
import os
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from mmengine.fileio import get

__all__ = ['read_file', 'read_json', 'read_lines', 'read_xml']


def read_file(path: str, what: str, backend_args: dict | None = None) -> bytes:
    """Reads a file's bytes through MMEngine's file backends.

    Args:
        path (str): The file, a path or an address that MMEngine's file backends understand.
        what (str): What the file is to the reader, for the message.
        backend_args (dict, optional): Arguments of MMEngine's file backend. Defaults to None.

    Raises:
        FileNotFoundError: The file does not exist.
    """
    try:
        return get(path, backend_args=backend_args)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{what} '{path}' does not exist (looked for from '{os.getcwd()}')") from error


def read_lines(path: str, what: str, backend_args: dict | None = None) -> list[tuple[int, str]]:
    """Reads the lines of a text file that hold something, each with its number (from 1)."""
    content = read_file(path, what, backend_args)
    try:
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} '{path}' is not UTF-8 text ({error})") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def read_json(path: str, what: str, backend_args: dict | None = None):
    """Reads a JSON file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is empty or no JSON; the message names the line and the column.
    """
    content = read_file(path, what, backend_args)
    if not content.strip():
        raise ValueError(f"{what} '{path}' is empty ({len(content)} bytes); a COCO file without objects still lists "
                         "'images' and 'categories'")
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} '{path}', line {error.lineno}, column {error.colno}: broken JSON ({error.msg}); "
                         'the file may be cut off') from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} '{path}' is not UTF-8 text ({error})") from error


def read_xml(path: str, what: str, backend_args: dict | None = None) -> tuple[Element | None, dict[Element, int]]:
    """Reads an XML file and remembers the line on which every element starts.

    ElementTree's own parser forgets the lines, so its tree builder is driven by expat here.

    Returns:
        tuple: The root element (None for an empty file) and the line of every element.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not well-formed XML; the message names the line.
    """
    content = read_file(path, what, backend_args)
    if not content.strip():
        return None, {}
    builder, lines, parser = TreeBuilder(), {}, expat.ParserCreate()

    def start(tag: str, attributes: dict) -> None:
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(f"{what} '{path}', line {error.lineno}: broken XML "
                         f'({expat.ErrorString(error.code)})') from error
    return builder.close(), lines
