"""The layers that a config is made of: files and presets, text, environment variables, overrides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from postgrad.config.fault import ConfigError, Fault
from postgrad.config.hints import alternatives, nearest_words

PRESETS = Path(__file__).parent.parent / "presets"
ALGORITHMS = Path(__file__).parent.parent / "train" / "presets"
ENVIRONMENT_PREFIX = "POSTGRAD__"


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
        wanted = f"wanted {alternatives(known)}" if known else "it has none"
        message = f"recipe '{recipe}' has no preset '{name}': {wanted}"
        raise ConfigError([Fault("--preset", "", message, nearest_words(name, known))])
    return File(PRESETS / recipe / f"{name}.yaml", f"{recipe}/{name}.yaml")


def algorithm(name: str) -> File:
    """A published way of reinforcement learning, as values of the section `rl` to lay over a preset."""
    known = sorted(path.stem for path in ALGORITHMS.glob("*.yaml"))
    if name not in known:
        message = f"no algorithm '{name}': wanted {alternatives(known)}"
        raise ConfigError([Fault("--algorithm", "", message, nearest_words(name, known))])
    return File(ALGORITHMS / f"{name}.yaml", f"algorithm {name}")


def environment(variables: Mapping[str, str]) -> list[Variable]:
    """The layer of every POSTGRAD__ variable, in a fixed order."""
    return [Variable(name, variables[name]) for name in sorted(variables) if name.startswith(ENVIRONMENT_PREFIX)]
