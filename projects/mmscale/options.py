"""Options of a config that reach a class: what it takes, and one sentence for what it does not."""

import inspect

__all__ = ['check_options', 'options_of']


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
