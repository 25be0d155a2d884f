"""What a config may hold: the base of every config, the full dotted keys of a model, its JSON schema."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of every config: frozen, finite, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


@dataclass(frozen=True, slots=True)
class Key:
    """One key that a config may have; `*` in its name stands for a list's index or a mapping's key."""

    name: str
    annotation: Any
    description: str


@cache
def keys(model: type[BaseModel]) -> Mapping[str, Key]:
    """Every key of a model by its full dotted name, sections included."""
    found: dict[str, Key] = {}

    def walk(section: type[BaseModel], prefix: str, inside: tuple[type[BaseModel], ...]) -> None:
        for name, field in section.model_fields.items():
            dotted = f"{prefix}{name}"
            found.setdefault(dotted, Key(dotted, field.annotation, field.description or ""))
            for suffix, child in _sections(field.annotation):
                if child not in inside:
                    walk(child, f"{dotted}{suffix}.", (*inside, child))

    walk(model, "", (model,))
    return found


def _sections(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Models inside an annotation, with `.*` for each list or mapping around them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
    elif origin is Annotated:
        yield from _sections(arguments[0])
    elif origin in (Union, UnionType):
        for argument in arguments:
            yield from _sections(argument)
    elif isinstance(origin, type) and issubclass(origin, Iterable):
        for argument in arguments:
            yield from ((f".*{suffix}", model) for suffix, model in _sections(argument))


def members(annotation: Any) -> set[Any]:
    """The alternatives of a union; the annotation itself otherwise."""
    return set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}


def starred(dotted: str) -> str:
    """The name in `keys` of a key that was written with a list's index."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", dotted)


def json_schema(model: type[Settings]) -> dict[str, Any]:
    """JSON schema of a --config file, for editors. Nothing is required: a file is one layer and may give one key."""

    def loosen(part: Any) -> Any:
        if isinstance(part, dict):
            kept = {key: value for key, value in part.items() if key != "required" or not isinstance(value, list)}
            return {key: loosen(value) for key, value in kept.items()}
        return [loosen(item) for item in part] if isinstance(part, list) else part

    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **loosen(model.model_json_schema())}
