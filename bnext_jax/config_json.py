"""A configuration as JSON: written, read again, and compared with the one that a run resumes with."""

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from bnext_jax.config import Config


def to_json(config: Config) -> dict[str, Any]:
    """Returns the configuration as plain JSON data. Tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flat_json(config: Config) -> dict[str, Any]:
    """Returns {"config.data.name": JSON value}: every field under its dotted name."""

    def walk(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict) and f"{prefix}{name}" != "config.model.extra":
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(walk(to_json(config), "config."))


def from_json(values: Mapping[str, Any], cls: Any = Config) -> Any:
    """Rebuilds a configuration from the result of `to_json`, without checking it.

    A missing field, which an older version did not have, gets its default. Unknown fields are ignored, and so is the temperature that older
    versions wrote for a network that takes none.

    Args:
      values: JSON data.
      cls: the dataclass to build and return: Config, or one of its parts.
    """
    parts: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name not in values:
            continue
        value, kinds = values[field.name], [kind for kind in (field.type, *typing.get_args(field.type)) if dataclasses.is_dataclass(kind)]
        if kinds and value is not None:
            parts[field.name] = from_json(value, kinds[0])
        else:
            parts[field.name] = tuple(value) if isinstance(value, list) else value
    made = cls(**parts)
    if cls is Config:
        from bnext_jax.models.table import takes_temperature  # imports JAX, which the help on fields does not need

        made.temperature = made.temperature if takes_temperature(made.model.name) else None
    return made


def changed_fields(saved: Mapping[str, Any], config: Config) -> list[str]:
    """Returns the fields that differ from a saved configuration although they may not change when a run resumes.

    Args:
      saved: the saved configuration, from `to_json`.
      config: the present configuration.
    Returns:
      One text a field: "config.seed (was 0, now 1)".
    """

    def walk(part: Any, old: Any, prefix: str) -> Iterator[str]:
        for field in dataclasses.fields(part):
            value, before = getattr(part, field.name), getattr(old, field.name)
            if dataclasses.is_dataclass(value) and before is not None:
                yield from walk(value, before, f"{prefix}{field.name}.")
            elif not field.metadata["resume"] and json.dumps(value, default=repr) != json.dumps(before, default=repr):
                yield f"{prefix}{field.name} (was {before!r}, now {value!r})"

    return list(walk(config, from_json(saved), "config."))
