"""Merges the layers, checks the result once, and says where each value of it was written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from postgrad.config.document import Node, plain
from postgrad.config.explain import translate, unknown_keys
from postgrad.config.fault import ConfigError, Fault, RefusedError
from postgrad.config.layers import Source
from postgrad.config.merge import apply, without
from postgrad.config.schema import Settings
from postgrad.config.write import emit

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """A config and where each of its values was written."""

    settings: S
    places: Mapping[str, str]
    """Full dotted key of a value -> its place; "default" where no layer gives it."""

    def show(self, *, sources: bool = False) -> str:
        """The config as YAML, each value followed by its place where `sources` is set."""
        return emit(self.settings, self.places if sources else {})


def load(model: type[S], sources: Sequence[Source]) -> Loaded[S]:
    """Merge the layers, lowest first, and check the result. Raises ConfigError with every fault found."""
    root = Node({}, "config")
    faults: list[Fault] = []
    complete = True
    for source in sources:
        try:
            root, found = apply(source, root, model)
            faults += found
        except RefusedError as error:
            complete = False
            faults += error.args[0]
    checked = _check(model, root)
    if isinstance(checked, ValidationError) and (unknown := unknown_keys(checked, model, root)):
        # Without the unknown keys, so that what validators say of the rest is heard in the same round.
        faults += unknown.values()
        for path in unknown:
            root = without(root, path)
        checked = _check(model, root)
    if isinstance(checked, ValidationError):
        meant = {hint for fault in faults for hint in fault.hints}
        invalid = translate(checked, model, root, sources)
        faults += [fault for fault in invalid if not fault.absence or (complete and fault.key not in meant)]
    if faults or isinstance(checked, ValidationError):
        raise ConfigError(faults)
    return Loaded(checked, _places(checked.model_dump(mode="json"), root))


def _check(model: type[S], root: Node) -> S | ValidationError:
    try:
        return model.model_validate_json(json.dumps(plain(root)), strict=True)
    except ValidationError as error:
        return error


def _places(values: Any, node: Node | None, prefix: str = "") -> dict[str, str]:
    """The place of every leaf of a dumped config."""
    children: Iterable[tuple[str, Any]] = ()
    if isinstance(values, dict):
        children = values.items()
    elif isinstance(values, list) and any(isinstance(item, dict) for item in values):
        children = ((str(i), item) for i, item in enumerate(values))
    written = None if node is None else node.value
    found: dict[str, str] = {}
    for name, value in children:
        if isinstance(written, list):
            child = written[int(name)]
        else:
            child = written.get(name) if isinstance(written, dict) else None
        found |= _places(value, child, f"{prefix}.{name}" if prefix else name)
    return found or {prefix: "default" if node is None else node.place}
