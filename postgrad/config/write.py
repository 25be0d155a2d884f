"""Writes a config as YAML that YAML 1.2 and YAML 1.1 readers read back to the same values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from postgrad.config.document import parse
from postgrad.config.schema import Settings


def dump_yaml(settings: Settings) -> str:
    """Every value, defaults too, as YAML that `load` reads back to an equal config."""
    return emit(settings, {})


def emit(settings: Settings, places: Mapping[str, str]) -> str:
    """Every value as YAML, followed by its place where `places` has one for its full dotted key."""

    def lines(name: str, value: Any, dotted: str, indent: str) -> Iterator[str]:
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            for key, child in value.items():
                yield from lines(_scalar(key), child, f"{dotted}.{key}", f"{indent}  ")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield f"{indent}{name}:"
            for i, item in enumerate(value):
                yield f"{indent}  -"
                for key, child in item.items():
                    yield from lines(_scalar(key), child, f"{dotted}.{i}.{key}", f"{indent}    ")
        else:
            comment = f"  # {places[dotted]}" if dotted in places else ""
            yield f"{indent}{name}: {_scalar(value)}{comment}"

    values = settings.model_dump(mode="json")
    return "".join(f"{line}\n" for name, value in values.items() for line in lines(name, value, name, ""))


def _scalar(value: Any) -> str:
    """One line that YAML 1.2 and YAML 1.1 both read as `value`."""
    if isinstance(value, list):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_scalar(key)}: {_scalar(item)}' for key, item in value.items())}}}"
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.ASCII) and _core(value) == value == yaml.safe_load(value):
        return value
    return yaml.dump(value, Dumper=yaml.SafeDumper, default_style='"', width=math.inf, allow_unicode=True).rstrip("\n")


def _core(text: str) -> Any:
    return parse(text, "value", lines=False)[0].value
