"""Turns pydantic's errors about a merged config into faults in plain words, each with its place and what to change."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby
from types import NoneType
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from postgrad.config.document import Node, got
from postgrad.config.fault import Fault
from postgrad.config.hints import nearest_keys, nearest_words
from postgrad.config.layers import Source
from postgrad.config.schema import keys, members, starred

_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "dict_type": "a section of keys",
    "none_required": "null",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "union_tag_invalid": "{expected_tags} as its {discriminator}",
    "union_tag_not_found": "the key {discriminator}",
    "extra_forbidden": "no such key in this form of the section",
}


def unknown_keys(error: ValidationError, model: type[BaseModel], root: Node) -> dict[tuple[str, ...], Fault]:
    """By path: keys that no section has, and keys below one that takes a single value."""
    found = {}
    known = {tuple(name.split(".")) for name in keys(model)}
    for item in error.errors(include_url=False):
        path, node = _locate(root, item["loc"])
        if item["type"] == "extra_forbidden" and path not in known:
            found[path] = _unknown(path, node, model)
        elif isinstance(node.value, dict) and node.value and not _holds_keys(path, model):
            name, child = next(iter(node.value.items()))
            found[path] = _unknown((*path, name), child, model)
    return found


def translate(error: ValidationError, model: type[BaseModel], root: Node, sources: Sequence[Source]) -> list[Fault]:
    """Faults of a merged config without unknown keys."""
    missing: list[Fault] = []
    invalid: list[Fault] = []
    details = [(*_locate(root, item["loc"]), item) for item in error.errors(include_url=False)]
    for path, group in groupby(details, key=lambda detail: detail[0]):
        wants: list[str] = []
        for _, node, item in group:
            kind = item["type"]
            if kind == "missing":
                missing.append(_missing(".".join((*path, str(item["loc"][-1]))), node, model))
            elif kind in ("value_error", "assertion_error"):
                invalid.append(_inconsistent(path, node, str(item["ctx"]["error"]), model, sources))
            else:
                words = _WANTED.get(kind, re.sub(r"^Input should be ", "", item["msg"]))
                wants.append(words.format(**{key: _number(value) for key, value in item.get("ctx", {}).items()}))
        if wants:
            invalid.append(_unwanted(".".join(path), node, wants))
    return invalid + missing


def _locate(root: Node, loc: Sequence[str | int]) -> tuple[tuple[str, ...], Node]:
    """The deepest written node on the way; parts of `loc` that name an alternative of a union are passed over."""
    node, path = root, ()  # type: Node, tuple[str, ...]
    for part in loc:
        inside = node.value
        if isinstance(inside, dict) and str(part) in inside:
            node = inside[str(part)]
        elif isinstance(inside, list) and isinstance(part, int) and part < len(inside):
            node = inside[part]
        else:
            continue
        path = (*path, str(part))
    return path, node


def _holds_keys(path: Sequence[str], model: type[BaseModel]) -> bool:
    """Whether the schema has, or may have, keys below this path; a list's `0: ...` is told that a list is wanted."""
    known = keys(model).get(starred(".".join(path)))
    if known is None:
        return True
    inside = (get_origin(member) or member for member in members(known.annotation))
    scalars = (str, int, float, bool, NoneType)
    return not all(member in scalars or not isinstance(member, type) for member in inside)


def _unknown(path: tuple[str, ...], node: Node, model: type[BaseModel]) -> Fault:
    """The key as typed: an override `rll.beta=0` is about `rll.beta`, though it is `rll` that no section has."""
    while isinstance(node.value, dict) and len(node.value) == 1:
        ((name, child),) = node.value.items()
        if child.place != node.place:
            break
        path, node = (*path, name), child
    dotted = ".".join(path)
    message = f"unknown key '{dotted}'"
    if dotted in keys(model):
        message += ": in a file, write each part on a line of its own, indented"
        return Fault(node.place, dotted, message)
    hints = nearest_keys(dotted, model)
    if not hints:
        section = dotted.rpartition(".")[0]
        beside = [name.rpartition(".") for name in keys(model)]
        here = [name for above, _, name in beside if above == section]
        message += f"; known here: {', '.join(here or [name for above, _, name in beside if not above])}"
    return Fault(node.place, dotted, message, hints)


def _missing(dotted: str, section: Node, model: type[BaseModel]) -> Fault:
    known = keys(model).get(starred(dotted))
    described = f" ({known.description})" if known is not None and known.description else ""
    message = f"missing key '{dotted}'{described}; no layer gives it and it has no default"
    return Fault(section.place, dotted, message, absence=True)


def _unwanted(dotted: str, node: Node, wants: Sequence[str]) -> Fault:
    wanted = " or ".join(dict.fromkeys(wants))
    value = node.value
    advice, hints = "", ()  # type: str, tuple[str, ...]
    if value is None:
        advice = "; leave the key out to keep what lower layers give"
    elif isinstance(value, dict) and all(name.isdecimal() for name in value):
        advice = f"; no layer below gives the list, so give it whole: {dotted}=[...]"
    elif isinstance(value, str):
        hints = nearest_words(value, re.findall(r"'([^']*)'", wanted))
        if "number" in wanted and _number_like(value):
            advice = "; remove the quotes" if not hints else ""
        if wanted == "true or false" and value.lower() in ("yes", "no", "on", "off", "y", "n"):
            advice = f"; write {str(value.lower() in ('yes', 'on', 'y')).lower()}"
    elif wanted == "a whole number" and isinstance(value, float) and value.is_integer():
        advice = f"; write {int(value)}"
    elif wanted == "text" and not isinstance(value, list | dict):
        advice = "; put it in quotes"
    return Fault(node.place, dotted, f"'{dotted}': got {got(node)}, wanted {wanted}{advice}", hints)


def _inconsistent(
    path: tuple[str, ...], section: Node, reason: str, model: type[BaseModel], sources: Sequence[Source]
) -> Fault:
    """A section whose keys do not go together: say where each key that the reason names was written."""
    dotted = ".".join(path)
    prefix = f"{dotted}." if dotted else ""

    def rank(name: str) -> int:
        place = section.value[name].place
        return max(i for i, source in enumerate(sources) if place == str(source) or place.startswith(f"{source}:"))

    written = section.value if isinstance(section.value, dict) else {}
    named = [name for name in written if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", reason)]
    origins = ", ".join(f"{prefix}{name} is from {written[name].place}" for name in named)
    message = (f"'{dotted}': " if dotted else "") + reason + (f" ({origins})" if origins else "")

    known = {name: keys(model).get(starred(f"{prefix}{name}")) for name in named if written[name].value is not None}
    optional = [name for name, key in known.items() if key is not None and NoneType in members(key.annotation)]
    if len(optional) > 1:
        keep = max(optional, key=rank)
        removed = " ".join(f"{prefix}{name}=null" for name in optional if name != keep)
        message += f"; to keep {prefix}{keep}, add {removed}"
    place = written[max(named, key=rank)].place if named else section.place
    return Fault(place, dotted, message)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number_like(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
