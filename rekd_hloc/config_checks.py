"""What options are checked for: each check raises one line that names option, rule and value."""

import math
from dataclasses import fields
from typing import Any, Literal, cast, get_args, get_origin


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """The condition holds; ``rule`` says in words what it asks for."""
    if not condition:
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def check_values(config: object) -> None:
    """Every float is finite, every switch a bool, every choice one that its annotation lists."""
    for item in fields(cast(Any, config)):
        value = getattr(config, item.name)
        if isinstance(value, float):
            require(math.isfinite(value), item.name, "finite", value)
        if item.type is bool:
            require(isinstance(value, bool), item.name, "true or false", value)
        if get_origin(item.type) is Literal:
            choices = get_args(item.type)
            require(value in choices, item.name, f"one of {', '.join(choices)}", value)


def at_least(config: object, bound: float, *names: str) -> None:
    """Every named option is the bound or more."""
    for name in names:
        value = getattr(config, name)
        require(value >= bound, name, f"at least {bound}", value)


def between(config: object, low: float, high: float, *names: str) -> None:
    """Every named option lies between the bounds; the upper one keeps memory and time sane."""
    for name in names:
        value = getattr(config, name)
        require(low <= value <= high, name, f"between {low} and {high}", value)


def above(config: object, bound: float, *names: str) -> None:
    """Every named option is more than the bound."""
    for name in names:
        value = getattr(config, name)
        require(value > bound, name, f"above {bound}", value)


def odd(config: object, name: str) -> None:
    """The named option is odd and positive."""
    value = getattr(config, name)
    require(value > 0 and value % 2 == 1, name, "odd and positive", value)
