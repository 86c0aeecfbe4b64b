"""Reading configurations: a dataclass of defaults, a YAML file, ``key=value`` overrides.

OmegaConf converts and checks the values (``1e-3`` is a float, a ``Literal`` has only its choices);
the keys are compared here, one by one, so that every message can name source, key and remedy.
This module knows no dataclass in particular; it is used through :mod:`rekd_hloc.config`.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, asdict, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rekd_hloc.renamed_options import new_name

Config = TypeVar("Config")

LATER = MappingProxyType({"later": True})
"""Metadata of an option that came after files had been written; see :func:`config_tree`."""
UNRECORDED = MappingProxyType({"unrecorded": True})
"""Metadata of an option that changes time alone, and results by rounding at most."""


def load_config(
    defaults: Config,
    path: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Merge a dataclass of defaults with a YAML file and ``key=value`` overrides, in that order.

    Nested options are written as sections in the file and with dots in an override
    (``detector.border_px=20``). An empty section or file leaves the defaults.

    Args:
        defaults: a dataclass with the default of every option.
        path: the YAML file, if there is one.
        overrides: each ``key=value``.
        renamed: new names of options by their earlier ones, for the error's text, beside those of
            this package's own options.

    Raises:
        FileNotFoundError: there is no such YAML file.
        ValueError: defaults that are no dataclass, as a preset's name; an unknown key (with the
            nearest known one), a value of the wrong type or out of range, or text that is not
            YAML; one line that names source, key and value.
    """
    if not is_dataclass(defaults):
        raise ValueError(
            f"load_config takes a dataclass of defaults, got {defaults!r}; a preset's are "
            "rekd_hloc.config.get_preset('rekd')"
        )
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}")
    sources = [(f"override {text!r}", _read_override(text)) for text in overrides]
    if path is not None:
        sources.insert(0, (f"configuration {path}", _read_mapping(path)))
    merged = OmegaConf.structured(defaults)
    for source, tree in sources:
        _refuse_interpolation(source, tree)
        for key, value in _assignments(source, defaults, tree, "", renamed):
            leaf = value
            for name in reversed(key.split(".")):
                leaf = {name: leaf}
            try:
                merged = OmegaConf.merge(merged, leaf)
            except OmegaConfBaseException as error:
                raise ValueError(f"{source}: {key} = {value!r}: {_reason(error)}") from error
    try:
        return cast(Config, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, ValueError) as error:
        where = "; ".join(source for source, _ in sources) or "configuration"
        raise ValueError(f"{where}: {_reason(error)}") from error


def _refuse_interpolation(source: str, value: Any, key: str = "") -> None:  # noqa: ANN401
    """Refuse ``${...}``, which would read the environment or other options.

    Raises:
        ValueError: a text anywhere in the tree holds it.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_interpolation(source, item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            _refuse_interpolation(source, item, key)
    elif isinstance(value, str) and "${" in value:
        raise ValueError(f"{source}: {key} = {value!r}: ${{...}} is not replaced; write the value")


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"configuration {path}: must read `key: value`") from error
    except Exception as error:  # the YAML parser's errors share no base with any other
        raise ValueError(f"configuration {path}: not YAML: {_one_line(error)}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"configuration {path}: must read `key: value`, got {tree!r}")
    return cast(dict[str, Any], tree)


def _read_override(text: str) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=False)
    except Exception as error:  # as above
        raise ValueError(f"override {text!r}: not YAML: {_one_line(error)}") from error
    if "=" not in text:
        raise ValueError(f"override {text!r}: must read key=value")
    return cast(dict[str, Any], tree)


def _assignments(
    source: str, defaults: object, tree: dict[str, Any], prefix: str, renamed: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    known = {item.name for item in fields(cast(Any, defaults))}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name not in known:
            suggestion = _suggestion(defaults, name, prefix, renamed)
            raise ValueError(f"{source}: unknown key {key!r}{suggestion}")
        section = getattr(defaults, name)
        if not is_dataclass(section):
            yield key, value
        elif isinstance(value, dict):
            yield from _assignments(source, section, value, f"{key}.", renamed)
        elif value is not None:
            raise ValueError(f"{source}: {key} is a section of options, got {value!r}")


def _suggestion(defaults: object, name: str, prefix: str, renamed: Mapping[str, str]) -> str:
    """The known key that resembles ``name`` most: one of this section first, then deeper ones."""
    siblings = [item.name for item in fields(cast(Any, defaults))]
    today = renamed.get(str(name)) or new_name(str(name))
    if today in siblings:
        return f"; it is {prefix + today!r} now"
    deeper = {key.rsplit(".", 1)[-1]: key for key in _dotted_keys(defaults)}
    near = difflib.get_close_matches(str(name), siblings, n=1)
    near = near or [deeper[key] for key in difflib.get_close_matches(str(name), deeper, n=1)]
    if near:
        return f"; did you mean {prefix + near[0]!r}?"
    return f"; known are {', '.join(prefix + name for name in siblings)}"


def _reason(error: Exception) -> str:
    """What went wrong, without the library's internals on later lines and its placeholders."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].replace("'$VALUE' of type '$VALUE_TYPE'", "of an item")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _dotted_keys(config: object, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for item in fields(cast(Any, config)):
        value = getattr(config, item.name)
        if is_dataclass(value):
            keys += _dotted_keys(value, f"{prefix}{item.name}.")
        else:
            keys.append(f"{prefix}{item.name}")
    return keys


def config_hash(config: object) -> str:
    """Twelve hexadecimal digits: the same for equal configurations, others for unequal ones."""
    return hash_of_tree(config_tree(config))


def config_tree(config: object) -> dict[str, Any]:
    """Return a configuration as nested mappings, as files record it.

    An option whose field says ``LATER`` is left out at its default: files made before there was
    such an option are then those of today. One that says ``UNRECORDED`` is always left out.
    """
    tree = {}
    for item in fields(cast(Any, config)):
        value = getattr(config, item.name)
        if is_dataclass(value):
            tree[item.name] = config_tree(value)
        elif not _is_left_out(item, value):
            tree[item.name] = asdict(cast(Any, config))[item.name]
    return tree


def defaults_left_out(kind: type) -> dict[str, Any]:
    """Return the options of a configuration that files leave out, with the values that means.

    Those of sections have dotted names.
    """
    defaults = {}
    for item in fields(kind):
        if item.metadata == LATER:
            defaults[item.name] = item.default
        elif is_dataclass(item.type) and isinstance(item.type, type):
            inner = defaults_left_out(item.type)
            defaults |= {f"{item.name}.{name}": value for name, value in inner.items()}
    return defaults


def hash_of_tree(tree: Mapping[str, Any]) -> str:
    """Return the hash of a configuration as nested mappings."""
    text = json.dumps(_canonical(dict(tree)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def config_json(config: object) -> str:
    """Return a configuration as JSON text that is the same for equal configurations.

    A whole number in a float option, ``tolerance_deg=30``, is written as the float it stands for.
    Options are left out as by :func:`config_tree`.
    """
    return json.dumps(_typed(config), sort_keys=True)


def _typed(config: object) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in fields(cast(Any, config)):
        value = getattr(config, item.name)
        if is_dataclass(value):
            values[item.name] = _typed(value)
        elif not _is_left_out(item, value):
            values[item.name] = float(value) if item.type is float else value
    return values


def _is_left_out(item: Field[Any], value: object) -> bool:
    return item.metadata == UNRECORDED or (item.metadata == LATER and value == item.default)


def _canonical(value: Any) -> Any:  # noqa: ANN401  (a tree of whatever a dataclass holds)
    """Whole numbers as floats, because 64 == 64.0 in a dataclass but not in JSON."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
