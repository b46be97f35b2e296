"""Options of a config that reach a class: what it takes, and one sentence for what it does not."""

import inspect
from collections.abc import Sequence
from numbers import Integral
from typing import Any

__all__ = ['are_whole_numbers', 'check_options', 'is_whole_number', 'options_of', 'part_options']


def options_of(cls: type) -> tuple[list[str], bool]:
    """What ``cls(...)`` takes by name.

    Args:
        cls (type): The class.

    Returns:
        tuple[list[str], bool]: The names, those included that it hands on to its base classes by ``**kwargs``; and
        whether it takes any other as well, which is so if ``**kwargs`` end in no class that names what it takes.

    Example:
        >>> class Base:
        ...     def __init__(self, width): ...
        >>> class Child(Base):
        ...     def __init__(self, *args, depth=1, **kwargs): ...
        >>> options_of(Child)
        (['depth', 'width'], False)
    """
    names: list[str] = []
    for owner in cls.__mro__:
        if '__init__' not in vars(owner):
            continue
        parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return list(dict.fromkeys(names)), False
    return list(dict.fromkeys(names)), True


def check_options(owner: str, cls: type, options: dict, reserved: tuple[str, ...] = ()) -> None:
    """Refuse options that a class does not take.

    Args:
        owner (str): How the user knows the class: its name, or the key of the config that holds the options.
        cls (type): The class.
        options (dict): Options by name; ``type`` is passed over.
        reserved (tuple[str]): Names that the class takes but that are not the user's to set here.

    Raises:
        ValueError: If there are others; it names them, their values, and what there is.
    """
    names, takes_any = options_of(cls)
    if takes_any:
        return
    known = [name for name in names if name not in reserved]
    unknown = [f'{name}={value!r}' for name, value in options.items() if name not in (*known, *reserved, 'type')]
    if unknown:
        raise ValueError(f'{owner} has no option {", ".join(unknown)}: its options are {", ".join(known)}')


def part_options(name: str, cls: type, options: dict | None, derived: tuple[str, ...], owner: str) -> dict:
    """The options that a config has for a part of a class.

    Args:
        name (str): The key of the config that holds them.
        cls (type): The part's class.
        options (dict, optional): Options by name; None for none.
        derived (tuple[str]): Names that the part takes, but that its owner sets.
        owner (str): Name of the class that has the part.

    Returns:
        dict: The options, in a dict of their own.

    Raises:
        ValueError: If they are no dict, the part does not take one of them, or its owner sets it.

    Example:
        >>> class Part:
        ...     def __init__(self, width, depth=1): ...
        >>> part_options('part', Part, dict(depth=2), derived=('width',), owner='Whole')
        {'depth': 2}
    """
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise ValueError(f'{name}={options!r} of {owner} should be a dict of options')
    for option in (*derived, 'type'):
        if option in options:
            raise ValueError(f'{name}.{option}={options[option]!r} cannot be set: {owner} sets it')
    check_options(name, cls, options, reserved=derived)
    return dict(options)


def is_whole_number(value: Any, least: int | None = 1) -> bool:
    """Whether a value is a whole number, not below ``least`` unless that is None; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and (least is None or value >= least)


def are_whole_numbers(values: Any, least: int | None = 1, count: int | None = None) -> bool:
    """Whether it is a list of such numbers, ``count`` of them unless that is None.

    Example:
        >>> are_whole_numbers([1, 2], count=2), are_whole_numbers(3), are_whole_numbers('12'), are_whole_numbers([True])
        (True, False, False, False)
    """
    if isinstance(values, str) or not isinstance(values, Sequence) or count not in (None, len(values)):
        return False
    return all(is_whole_number(value, least) for value in values)
