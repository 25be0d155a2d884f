"""Presets + YAML files + environment + a.b=c overrides -> one frozen, fully checked config.

    preset < --config files, left to right < POSTGRAD__A__B=c < a.b=c

Later layers win; sections merge key by key; null removes an optional section. Every fault of every layer is reported
at once, with the place it was written at and the nearest known key. YAML is read by the 1.2 core schema (`1e-4` is a
number, `no` is text) and a duplicate key is a fault.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

PRESETS = Path(__file__).parent / "presets"
ENVIRONMENT_PREFIX = "POSTGRAD__"


class Settings(BaseModel):
    """Base of every config: frozen, finite, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


S = TypeVar("S", bound=Settings)


# What can be wrong


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: where it was written, what is wrong, and what was probably meant."""

    place: str
    """`file.yaml:3`, `override 'a.b=c'`, `environment POSTGRAD__A__B` or "config" where nothing was written."""
    key: str
    """Full dotted key; empty where the fault is not about one key."""
    message: str
    hints: tuple[str, ...] = ()
    """Known keys or values, likeliest first."""
    absence: bool = False
    """Something is missing, rather than wrong."""

    def __str__(self) -> str:
        meant = f"; did you mean {_alternatives(self.hints)}?" if self.hints else ""
        return f"{self.place}: {self.message}{meant}"


class ConfigError(ValueError):
    """Everything wrong with a config."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(tuple(faults))
        self.faults = tuple(faults)

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return str(self.faults[0])
        return "\n".join([f"the config has {len(self.faults)} faults", *(f"  {fault}" for fault in self.faults)])


class _RefusedError(Exception):
    """A layer cannot be read; becomes a Fault where its place is known."""


# Layers


@dataclass(frozen=True, slots=True)
class File:
    """A YAML file. `name` is what faults call it; the path if empty."""

    path: Path
    name: str = ""

    def __str__(self) -> str:
        return self.name or str(self.path)


@dataclass(frozen=True, slots=True)
class Text:
    """YAML that is already in memory, such as a run's own config."""

    text: str
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable `POSTGRAD__A__B`, which sets `a.b`."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"environment {self.name}"


@dataclass(frozen=True, slots=True)
class Override:
    """`a.b=c` from the command line; `data.0.weight=9` reaches into a list."""

    text: str

    def __str__(self) -> str:
        return f"override '{self.text}'"


Source = File | Text | Variable | Override


def presets(recipe: str) -> list[str]:
    """Names of a recipe's packaged presets."""
    return sorted(path.stem for path in (PRESETS / recipe).glob("*.yaml"))


def preset(recipe: str, name: str) -> File:
    """A packaged preset as the lowest layer."""
    known = presets(recipe)
    if name not in known:
        wanted = f"wanted {_alternatives(known)}" if known else "it has none"
        message = f"recipe '{recipe}' has no preset '{name}': {wanted}"
        raise ConfigError([Fault("--preset", "", message, nearest_words(name, known))])
    return File(PRESETS / recipe / f"{name}.yaml", f"{recipe}/{name}.yaml")


def environment(variables: Mapping[str, str]) -> list[Variable]:
    """The layer of every POSTGRAD__ variable, in a fixed order."""
    return [Variable(name, variables[name]) for name in sorted(variables) if name.startswith(ENVIRONMENT_PREFIX)]


# Loading


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """A config and where each of its values was written."""

    settings: S
    places: Mapping[str, str]
    """Full dotted key of a value -> its place; "default" where no layer gives it."""

    def show(self, *, sources: bool = False) -> str:
        """The config as YAML, each value followed by its place where `sources` is set."""
        return _emit(self.settings, self.places if sources else {})


def load(model: type[S], sources: Sequence[Source]) -> Loaded[S]:
    """Merge the layers, lowest first, and check the result. Raises ConfigError with every fault found."""
    root = _Node({}, "config")
    faults: list[Fault] = []
    complete = True
    for source in sources:
        try:
            root, found = _apply(source, root, model)
            faults += found
        except _RefusedError as error:
            complete = False
            faults += error.args[0]
    checked = _check(model, root)
    if isinstance(checked, ValidationError) and (unknown := _unknown_keys(checked, model, root)):
        # Without the unknown keys, so that what validators say of the rest is heard in the same round.
        faults += unknown.values()
        for path in unknown:
            root = _without(root, path)
        checked = _check(model, root)
    if isinstance(checked, ValidationError):
        meant = {hint for fault in faults for hint in fault.hints}
        invalid = _translate(checked, model, root, sources)
        faults += [fault for fault in invalid if not fault.absence or (complete and fault.key not in meant)]
    if faults or isinstance(checked, ValidationError):
        raise ConfigError(faults)
    return Loaded(checked, _places(checked.model_dump(mode="json"), root))


def _check(model: type[S], root: _Node) -> S | ValidationError:
    try:
        return model.model_validate_json(json.dumps(_plain(root)), strict=True)
    except ValidationError as error:
        return error


def read_yaml(text: str, name: str) -> Any:
    """Plain values of one YAML document, by the same rules as a config."""
    try:
        node, faults = _parse(text, name)
    except _RefusedError as error:
        raise ConfigError(error.args[0]) from None
    if faults:
        raise ConfigError(faults)
    return _plain(node)


def dump_yaml(settings: Settings) -> str:
    """Every value, defaults too, as YAML that `load` reads back to an equal config."""
    return _emit(settings, {})


def json_schema(model: type[Settings]) -> dict[str, Any]:
    """JSON schema of a --config file, for editors. Nothing is required: a file is one layer and may give one key."""

    def loosen(part: Any) -> Any:
        if isinstance(part, dict):
            kept = {key: value for key, value in part.items() if key != "required" or not isinstance(value, list)}
            return {key: loosen(value) for key, value in kept.items()}
        return [loosen(item) for item in part] if isinstance(part, list) else part

    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **loosen(model.model_json_schema())}


# The keys of a model


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


def nearest_keys(typed: str, model: type[BaseModel]) -> tuple[str, ...]:
    """Known keys that `typed` may stand for: slips of the keyboard, keys of another section, short forms."""
    indices = re.findall(r"\.(\d+)(?=\.|$)", typed)
    pattern = _starred(typed)
    scored = [(score, name) for name in keys(model) if (score := _unlikeness(pattern, name)) is not None]
    if not scored:
        return ()
    best = min(score for score, _ in scored)
    return tuple(_fill(name, indices) for score, name in scored if score == best)[:3]


def _unlikeness(typed: str, known: str) -> float | None:
    """Small where `known` may be meant; None where it is not.

    In order: a path without its first keys; a slip of the keyboard, or initials (lr); the right name in a wrong
    section, or some of the name's words; words of a name in another section.
    """
    if known.endswith(f".{typed}"):
        return 0.5
    slips = _edits(typed, known, limit=1 if len(typed) < 4 else 2 if len(typed) < 12 else 3)
    section, _, leaf = typed.rpartition(".")
    known_section, _, known_leaf = known.rpartition(".")
    elsewhere = _edits(leaf, known_leaf, limit=min(2, len(leaf) // 4))
    scores = [] if slips is None else [float(slips)]
    if elsewhere is not None:
        scores.append(elsewhere + 1.5)
    words = known_leaf.split("_")
    if len(leaf) > 1 and leaf == "".join(word[0] for word in words):
        scores.append(1.0 if section in ("", known_section) else 2.5)
    elif set(leaf.split("_")) < set(words):
        scores.append(1.5 if section == known_section else 4.5)
    return min(scores, default=None)


def _edits(a: str, b: str, limit: int) -> int | None:
    """Insertions, deletions, substitutions and swaps of neighbours between two words; None if more than `limit`."""
    if abs(len(a) - len(b)) > limit or len(_letters(a) ^ _letters(b)) > 2 * limit:
        return None
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        fresh = [limit + 1] * (len(b) + 1)
        fresh[0] = i
        for j in range(max(1, i - limit), min(len(b), i + limit) + 1):
            cost = min(row[j] + 1, fresh[j - 1] + 1, row[j - 1] + (letter != b[j - 1]))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == b[j - 1]:
                cost = min(cost, before[j - 2] + 1)
            fresh[j] = cost
        if min(fresh) > limit:
            return None
        before, row = row, fresh
    return row[-1] if row[-1] <= limit else None


@lru_cache(maxsize=1024)
def _letters(word: str) -> frozenset[str]:
    return frozenset(word)


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


def _members(annotation: Any) -> set[Any]:
    """The alternatives of a union; the annotation itself otherwise."""
    return set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}


def _starred(dotted: str) -> str:
    """The name in `keys` of a key that was written with a list's index."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", dotted)


def _fill(name: str, indices: Sequence[str]) -> str:
    left = iter(indices)
    return re.sub(r"\*", lambda _: next(left, "0"), name)


# YAML with places


@dataclass(frozen=True, slots=True)
class _Node:
    value: Any
    """A dict of nodes, a list of nodes, or a scalar."""
    place: str


class _Core(yaml.SafeLoader):
    """YAML 1.2's core schema; PyYAML reads 1.1, where 1e-4 is text, `no` is false and 010 is eight."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  (PyYAML's own attribute)


_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Core.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


def _integer(text: str) -> int:
    return int(text[2:], 8 if text[1] == "o" else 16) if text[:2] in ("0o", "0x") else int(text)


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": _integer,
    "float": lambda text: float(re.sub(r"\.(inf|nan)", r"\1", text.lower())),
    "str": str,
}
_DEEPEST, _LARGEST = 40, 20_000
"""Beyond these a document is an alias bomb, not a config."""


@lru_cache(maxsize=32)
def _parse(text: str, name: str, *, lines: bool = True) -> tuple[_Node, tuple[Fault, ...]]:
    """One document as nodes, with the faults that leave the rest readable; others raise _RefusedError."""
    faults: list[Fault] = []
    count = 0

    def place(mark: Any) -> str:
        return f"{name}:{mark.line + 1}" if lines and mark is not None else name

    def refuse(mark: Any, message: str) -> _RefusedError:
        return _RefusedError([Fault(place(mark), "", message)])

    def build(node: Any, where: str, above: tuple[str, ...]) -> _Node:
        nonlocal count
        count += 1
        if len(above) > _DEEPEST or count > _LARGEST:
            raise refuse(node.start_mark, f"more than {_LARGEST} values, or nested deeper than {_DEEPEST}")
        if isinstance(node, yaml.MappingNode):
            return _Node(build_section(node, above), where)
        if isinstance(node, yaml.SequenceNode):
            items = [build(item, place(item.start_mark), (*above, str(i))) for i, item in enumerate(node.value)]
            return _Node(items, where)
        read = _SCALARS.get(node.tag.removeprefix(_TAG))
        try:
            if read is None:
                raise ValueError
            return _Node(read(node.value), where)
        except ValueError:
            tag = node.tag.replace(_TAG, "!!")
            raise refuse(node.start_mark, f"cannot read {node.value!r} with the tag {tag}: leave the tag out") from None

    def build_section(node: Any, above: tuple[str, ...]) -> dict[str, _Node]:
        section: dict[str, _Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise refuse(key_node.start_mark, "a key must be one word")
            key, where = key_node.value, place(key_node.start_mark)
            if key in section:
                dotted = ".".join((*above, key))
                faults.append(Fault(where, dotted, f"'{dotted}' is given twice, first at {section[key].place}"))
            section[key] = build(value_node, where, (*above, key))
        return section

    try:
        document = yaml.compose(text, Loader=_Core)
        root = _Node({}, name) if document is None else build(document, name, ())
    except yaml.MarkedYAMLError as error:
        raise refuse(error.problem_mark, f"not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise refuse(None, f"not YAML: {' '.join(str(error).split())}") from error
    return root, tuple(faults)


def _plain(node: _Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    return [_plain(child) for child in node.value] if isinstance(node.value, list) else node.value


# Merging


def _apply(source: Source, root: _Node, model: type[BaseModel]) -> tuple[_Node, tuple[Fault, ...]]:
    if isinstance(source, Override | Variable):
        return _set(source, root, model), ()
    if isinstance(source, Text):
        text = source.text
    else:
        try:
            text = source.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise _RefusedError([Fault(str(source), "", f"cannot read the file: {reason}")]) from error
    layer, faults = _parse(text, str(source))
    if layer.value is None:
        return root, faults
    if not isinstance(layer.value, dict):
        raise _RefusedError([Fault(str(source), "", f"got {_got(layer)}, wanted lines of `key: value`")])
    return _Node(_merge(root, layer).value, root.place), faults


def _merge(base: _Node | None, top: _Node) -> _Node:
    if base is None or not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return top
    merged = dict(base.value)
    for key, child in top.value.items():
        merged[key] = _merge(merged.get(key), child)
    return _Node(merged, top.place)


def _set(source: Override | Variable, root: _Node, model: type[BaseModel]) -> _Node:
    place = str(source)
    if isinstance(source, Override):
        dotted, equals, raw = source.text.partition("=")
    else:
        dotted = source.name.removeprefix(ENVIRONMENT_PREFIX).replace("__", ".").lower()
        equals, raw = "=", source.value

    def refuse(message: str) -> _RefusedError:
        return _RefusedError([Fault(place, dotted, message)])

    if not equals or not dotted:
        raise refuse("wanted key=value, such as rl.learning_rate=1e-5")
    if not raw.strip():
        raise refuse(f"no value for '{dotted}': write null to remove it, or \"''\" for an empty text")

    known = keys(model).get(_starred(dotted))
    is_text = known is not None and _members(known.annotation) - {NoneType} == {str}
    if is_text and raw not in ("null", "~") and raw[0] not in "'\"":
        leaf = _Node(raw, place)  # `system_prompt=Answer: ...` is text, whatever YAML makes of the colon
    else:
        leaf, faults = _parse(raw, place, lines=False)
        if faults:
            raise _RefusedError(faults)

    def graft(base: _Node | None, path: Sequence[str]) -> _Node:
        if not path:
            return _merge(base, leaf)
        head, rest = path[0], path[1:]
        if base is not None and isinstance(base.value, list):
            if not (head.isdecimal() and int(head) < len(base.value)):
                last = len(base.value) - 1
                raise refuse(f"'{dotted}': no item '{head}' in a list of {len(base.value)}; wanted 0 to {last}")
            items = list(base.value)
            items[int(head)] = graft(items[int(head)], rest)
            return _Node(items, base.place)
        section = dict(base.value) if base is not None and isinstance(base.value, dict) else {}
        section[head] = graft(section.get(head), rest)
        return _Node(section, place)

    return graft(root, dotted.split("."))


# pydantic's errors in plain words

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


def _unknown_keys(error: ValidationError, model: type[BaseModel], root: _Node) -> dict[tuple[str, ...], Fault]:
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


def _without(node: _Node, path: Sequence[str]) -> _Node:
    head, rest = path[0], path[1:]
    if isinstance(node.value, list):
        items = list(node.value)
        items[int(head)] = _without(items[int(head)], rest)
        return _Node(items, node.place)
    section = dict(node.value)
    if rest:
        section[head] = _without(section[head], rest)
    else:
        del section[head]
    return _Node(section, node.place)


def _translate(error: ValidationError, model: type[BaseModel], root: _Node, sources: Sequence[Source]) -> list[Fault]:
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


def _locate(root: _Node, loc: Sequence[str | int]) -> tuple[tuple[str, ...], _Node]:
    """The deepest written node on the way; parts of `loc` that name an alternative of a union are passed over."""
    node, path = root, ()  # type: _Node, tuple[str, ...]
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
    known = keys(model).get(_starred(".".join(path)))
    if known is None:
        return True
    inside = (get_origin(member) or member for member in _members(known.annotation))
    scalars = (str, int, float, bool, NoneType)
    return not all(member in scalars or not isinstance(member, type) for member in inside)


def _unknown(path: tuple[str, ...], node: _Node, model: type[BaseModel]) -> Fault:
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


def _missing(dotted: str, section: _Node, model: type[BaseModel]) -> Fault:
    known = keys(model).get(_starred(dotted))
    described = f" ({known.description})" if known is not None and known.description else ""
    message = f"missing key '{dotted}'{described}; no layer gives it and it has no default"
    return Fault(section.place, dotted, message, absence=True)


def _unwanted(dotted: str, node: _Node, wants: Sequence[str]) -> Fault:
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
    return Fault(node.place, dotted, f"'{dotted}': got {_got(node)}, wanted {wanted}{advice}", hints)


def _inconsistent(
    path: tuple[str, ...], section: _Node, reason: str, model: type[BaseModel], sources: Sequence[Source]
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

    known = {name: keys(model).get(_starred(f"{prefix}{name}")) for name in named if written[name].value is not None}
    optional = [name for name, key in known.items() if key is not None and NoneType in _members(key.annotation)]
    if len(optional) > 1:
        keep = max(optional, key=rank)
        removed = " ".join(f"{prefix}{name}=null" for name in optional if name != keep)
        message += f"; to keep {prefix}{keep}, add {removed}"
    place = written[max(named, key=rank)].place if named else section.place
    return Fault(place, dotted, message)


def _got(node: _Node) -> str:
    value = node.value
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return f"{value if len(value) <= 60 else value[:57] + '...'!r} (text)"
    return json.dumps(value)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number_like(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def nearest_words(typed: str, known: Iterable[str]) -> tuple[str, ...]:
    """Those of a few known words that `typed` may stand for."""
    near = (name for name in known if _edits(typed.lower(), name.lower(), limit=max(1, len(name) // 3)) is not None)
    return tuple(near)[:3]


def _alternatives(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return " or ".join(quoted if len(quoted) < 3 else [", ".join(quoted[:-1]), quoted[-1]])


# Writing YAML


def _places(values: Any, node: _Node | None, prefix: str = "") -> dict[str, str]:
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


def _emit(settings: Settings, places: Mapping[str, str]) -> str:
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
    return _parse(text, "value", lines=False)[0].value
