"""Presets + YAML files + environment + a.b=c overrides -> one frozen, fully checked config.

    preset < --algorithm < --config files, left to right < POSTGRAD__A__B=c < a.b=c

Later layers win; sections merge key by key; null removes an optional section. Every fault of every layer is reported
at once, with the place it was written at and the nearest known key. YAML is read by the 1.2 core schema (`1e-4` is a
number, `no` is text) and a duplicate key is a fault. No torch.

    schema      the base of every config, the keys of a model, JSON schema
    layers      files, presets, environment, overrides
    document    YAML -> nodes with places
    merge       one layer over the lower ones
    loaded      all layers -> a checked config
    explain     pydantic's errors in plain words
    hints       what a mistyped key or word may stand for
    fault       one thing wrong; all of them together
    write       a config -> YAML
"""

from postgrad.config.document import read_yaml
from postgrad.config.fault import ConfigError, Fault
from postgrad.config.hints import nearest_keys, nearest_words
from postgrad.config.layers import (
    ALGORITHMS,
    ENVIRONMENT_PREFIX,
    PRESETS,
    File,
    Override,
    Source,
    Text,
    Variable,
    algorithm,
    environment,
    preset,
    presets,
)
from postgrad.config.loaded import Loaded, load
from postgrad.config.schema import Key, Settings, json_schema, keys
from postgrad.config.write import dump_yaml

__all__ = [
    "ALGORITHMS",
    "ENVIRONMENT_PREFIX",
    "PRESETS",
    "ConfigError",
    "Fault",
    "File",
    "Key",
    "Loaded",
    "Override",
    "Settings",
    "Source",
    "Text",
    "Variable",
    "algorithm",
    "dump_yaml",
    "environment",
    "json_schema",
    "keys",
    "load",
    "nearest_keys",
    "nearest_words",
    "preset",
    "presets",
    "read_yaml",
]
