"""Configs: what is accepted, and that everything else is refused at once, in place, in plain words."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, PositiveInt, model_validator

from postgrad import config
from postgrad.config import (
    ConfigError,
    Fault,
    File,
    Override,
    Settings,
    Source,
    Text,
    Variable,
    dump_yaml,
    environment,
    json_schema,
    keys,
    load,
    nearest_keys,
)
from postgrad.recipes.math_two_stage import Config

BASE = Text(
    """\
seed: 1
model:
  scratch:
    hidden_size: 64
data:
  arithmetic:
    train: 100
sft:
  max_steps: 10
  learning_rate: 1e-4
  max_length: 128
rl:
  max_steps: 10
  learning_rate: 1e-5
  prompts_per_step: 4
  per_device_train_batch_size: 8
  max_completion_length: 64
  rewards: {accuracy: 1.0, max_length: 64}
eval: {max_tokens: 64}
""",
    "base.yaml",
)


def read(*layers: str | Source) -> Config:
    sources = [Override(layer) if isinstance(layer, str) else layer for layer in layers]
    return load(Config, [BASE, *sources]).settings


def faults(*layers: str | Source, model: type[Settings] = Config, base: Source = BASE) -> list[Fault]:
    sources = [Override(layer) if isinstance(layer, str) else layer for layer in layers]
    with pytest.raises(ConfigError) as caught:
        load(model, [base, *sources])
    return list(caught.value.faults)


def fault(*layers: str | Source) -> str:
    found = faults(*layers)
    assert len(found) == 1, "\n".join(map(str, found))
    return str(found[0])


# Layers


def test_later_layers_win_and_sections_merge(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("rl: {beta: 0.1, epsilon: 0.3}\nseed: 5\n")
    second.write_text("rl: {beta: 0.2}\n")
    variables = environment({"POSTGRAD__SEED": "7", "POSTGRAD__RL__TOP_K": "9", "HOME": "/", "POSTGRAD_X": "1"})
    loaded = load(Config, [BASE, File(first), File(second), *variables, Override("rl.top_k=11")])
    rl = loaded.settings.rl
    assert (rl.beta, rl.epsilon, rl.top_k, loaded.settings.seed) == (0.2, 0.3, 11, 7)
    assert rl.learning_rate == 1e-5, "kept from the lowest layer"
    assert loaded.places["rl.beta"] == f"{second}:1"
    assert loaded.places["rl.epsilon"] == f"{first}:1"
    assert loaded.places["rl.max_steps"] == "base.yaml:13"
    assert loaded.places["rl.top_k"] == "override 'rl.top_k=11'"
    assert loaded.places["seed"] == "environment POSTGRAD__SEED"
    assert loaded.places["rl.temperature"] == "default"
    unset = ("data.files", "model.adapter")
    leaves = {name for name in keys(Config) if not any(k.startswith(f"{name}.") for k in keys(Config))}
    below = {name for name in leaves if name.startswith(tuple(f"{section}." for section in unset))}
    assert set(loaded.places) == leaves - below | {*unset}


def test_null_removes_an_optional_section() -> None:
    assert read("sft=null").sft is None
    both = read("model.path=some/model", "model.scratch=null")
    assert (both.model.path, both.model.scratch) == ("some/model", None)


def test_a_section_comes_back_after_a_null() -> None:
    assert read("model.scratch=null", "model.scratch.hidden_size=32").model.scratch.hidden_size == 32  # type: ignore[union-attr]


def test_yaml_is_version_1_2() -> None:
    text = "{a: 1e-4, b: 1E+3, c: .5, d: no, e: 010, f: 1:30, g: 2024-01-01,"
    text += " h: 0x1F, i: ~, j: -.inf, k: 0o17, l: '1', m: True, n: }"
    assert config.read_yaml(text, "x") == {
        "a": 1e-4,
        "b": 1000.0,
        "c": 0.5,
        "d": "no",
        "e": 10,
        "f": "1:30",
        "g": "2024-01-01",
        "h": 31,
        "i": None,
        "j": float("-inf"),
        "k": 15,
        "l": "1",
        "m": True,
        "n": None,
    }


def test_an_override_of_a_text_is_taken_as_it_is() -> None:
    prompt = "Answer: think first, {then} say"
    assert read(f"data.system_prompt={prompt}").data.system_prompt == prompt
    assert read("data.system_prompt='null'").data.system_prompt == "null"
    assert read("data.system_prompt=null").data.system_prompt is None
    assert read("model.device=cuda:0").model.device == "cuda:0"
    assert read("model.path=123", "model.scratch=null").model.path == "123"


def test_an_override_may_be_a_section_or_a_list() -> None:
    read_back = read("model.scratch={hidden_size: 32}", "eval.budgets=[1, 0.5]")
    assert read_back.model.scratch is not None
    assert (read_back.model.scratch.hidden_size, read_back.eval.budgets) == (32, (1.0, 0.5))


class Part(Settings):
    name: str
    weight: float = 1.0


class Mixed(Settings):
    parts: list[Part]
    weights: dict[str, float]
    size: PositiveInt | Literal["auto"] = "auto"


MIXED = Text("parts:\n  - name: a\n  - {name: b, weight: 2}\nweights: {x: 1}\n", "mixed.yaml")


def test_lists_are_reached_by_index() -> None:
    loaded = load(Mixed, [MIXED, Override("parts.0.weight=9"), Override("weights.y=2")])
    assert [part.weight for part in loaded.settings.parts] == [9.0, 2.0]
    assert loaded.settings.weights == {"x": 1.0, "y": 2.0}
    assert loaded.places["parts.0.weight"] == "override 'parts.0.weight=9'"
    assert loaded.places["parts.1.weight"] == "mixed.yaml:3"
    assert load(Mixed, [Text(dump_yaml(loaded.settings), "again")]).settings == loaded.settings


def test_faults_inside_lists() -> None:
    def messages(override: str) -> list[str]:
        return [str(found) for found in faults(override, model=Mixed, base=MIXED)]

    assert messages("parts.5.weight=9") == [
        "override 'parts.5.weight=9': 'parts.5.weight': no item '5' in a list of 2; wanted 0 to 1"
    ]
    assert messages("parts.1.wieght=9") == [
        "override 'parts.1.wieght=9': unknown key 'parts.1.wieght'; did you mean 'parts.1.weight'?"
    ]
    assert messages("size=big") == ["override 'size=big': 'size': got 'big' (text), wanted a whole number or 'auto'"]


class Cat(Settings):
    kind: Literal["cat"]
    lives: int = 9


class Dog(Settings):
    kind: Literal["dog"]
    tricks: int = 0


class Owner(Settings):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


def test_alternatives_are_chosen_by_their_tag() -> None:
    dog = Text("pet:\n  kind: dog\n", "pet.yaml")
    assert load(Owner, [dog, Override("pet.tricks=3")]).settings.pet == Dog(kind="dog", tricks=3)
    (found,) = faults("pet.trikcs=3", model=Owner, base=dog)
    assert (found.key, found.hints) == ("pet.trikcs", ("pet.tricks",))
    (found,) = faults("pet.kind=fish", model=Owner, base=dog)
    assert "wanted 'cat', 'dog' as its 'kind'" in str(found)


class Keeper(Settings):
    pet: Cat | Dog


def test_a_key_of_another_alternative_is_not_called_unknown() -> None:
    text = "\n".join(map(str, faults("pet.tricks=3", model=Keeper, base=Text("pet: {kind: cat}\n", "pet.yaml"))))
    assert "'pet.tricks': got 3, wanted no such key in this form of the section" in text
    assert "unknown key" not in text


def test_plain_values_are_refused_by_the_same_rules() -> None:
    for text in ("a: [", "a: 1\na: 2\n"):
        with pytest.raises(ConfigError, match=r"run\.yaml:"):
            config.read_yaml(text, "run.yaml")


# Faults


def test_an_unknown_key_in_a_nested_file_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nrl:\n  rewards:\n    acuracy: 1\n")
    assert fault(File(path)) == f"{path}:4: unknown key 'rl.rewards.acuracy'; did you mean 'rl.rewards.accuracy'?"


def test_every_fault_of_every_layer_at_once() -> None:
    mine = Text("sft: {max_stepz: 3}\nrl:\n  beta: high\n  beta: low\nmodel: {dtype: float16}\n", "mine.yaml")
    found = faults(mine, "eval.samples=0", Variable("POSTGRAD__SED", "3"))
    assert [(fault.place, fault.key) for fault in found] == [
        ("mine.yaml:4", "rl.beta"),  # given twice
        ("mine.yaml:1", "sft.max_stepz"),
        ("environment POSTGRAD__SED", "sed"),
        ("mine.yaml:5", "model.dtype"),
        ("mine.yaml:4", "rl.beta"),
        ("override 'eval.samples=0'", "eval.samples"),
    ]
    with pytest.raises(ValueError, match=r"the config has 6 faults\n  mine\.yaml:4: 'rl\.beta' is given twice"):
        load(Config, [BASE, mine, Override("eval.samples=0"), Variable("POSTGRAD__SED", "3")])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rl.beta=x", "'rl.beta': got 'x' (text), wanted a number"),
        ("rl.beta='0.1'", "got '0.1' (text), wanted a number; remove the quotes"),
        ("rl.beta=-1", "'rl.beta': got -1, wanted at least 0"),
        ("rl.top_p=1.5", "got 1.5, wanted at most 1"),
        ("rl.top_p=0", "got 0, wanted more than 0"),
        ("rl.learning_rate=.nan", "got NaN, wanted a finite number"),
        ("sft.max_steps=1e3", "got 1000.0, wanted a whole number; write 1000"),
        ("sft.max_steps=true", "got true, wanted a whole number"),
        ("sft.max_steps=null", "got null, wanted a whole number; leave the key out"),
        ("sft.max_steps=[1]", "got a list of 1, wanted a whole number"),
        ("rl.rewards.gate_length=no", "got 'no' (text), wanted true or false; write false"),
        ("rl.rewards.gate_length=1", "got 1, wanted true or false"),
        ("rl=3", "'rl': got 3, wanted a section of keys"),
        ("sft.overlong=dorp", "got 'dorp' (text), wanted 'error' or 'drop'; did you mean 'drop'?"),
        ("model.dtype=float16", "wanted 'float32' or 'bfloat16'; did you mean 'float32' or 'bfloat16'?"),
        ("eval.budgets=[1, x]", "'eval.budgets.1': got 'x' (text), wanted a number"),
        ("eval.budgets.0=1", "wanted a list; no layer below gives the list, so give it whole: eval.budgets=[...]"),
        ("rl.beta.x=3", "unknown key 'rl.beta.x'; did you mean 'rl.beta'?"),
        ("rl.beta", "wanted key=value, such as rl.learning_rate=1e-5"),
        ("rl.beta=", "no value for 'rl.beta': write null to remove it"),
        ("=3", "wanted key=value"),
        ("rl.beta=[1", "not YAML"),
        ("rl.beta=!!python/name:os.system x", "cannot read"),
    ],
)
def test_faults_in_plain_words(override: str, words: str) -> None:
    text = fault(override)
    assert text.startswith(f"override '{override}': ")
    assert words in text
    for jargon in ("pydantic", "Input should", "http", "Value error", "input_"):
        assert jargon not in text


def test_a_text_in_a_file_needs_quotes_around_a_number() -> None:
    text = fault(Text("model:\n  path: 12\n  scratch:", "mine.yaml"))
    assert text == "mine.yaml:2: 'model.path': got 12, wanted text; put it in quotes"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sft.num_generations", ("rl.num_generations",)),
        ("learning_rate", ("sft.learning_rate", "rl.learning_rate")),
        ("rewards.accuracy", ("rl.rewards.accuracy",)),
        ("rl.accuracy", ("rl.rewards.accuracy",)),
        ("rl.lr", ("rl.learning_rate",)),
        ("optim.learning_rate", ("sft.learning_rate", "rl.learning_rate")),
        ("modle.pth", ("model.path",)),
        ("sft.accumulation_steps", ("sft.gradient_accumulation_steps",)),
        ("entirely.different", ()),
    ],
)
def test_hints_look_in_every_section(typed: str, meant: tuple[str, ...]) -> None:
    assert nearest_keys(typed, Config) == meant


def test_without_a_near_key_the_known_ones_are_listed() -> None:
    assert fault("rl.rewards.zzzzzzzzz=1").endswith("known here: " + ", ".join(type(read().rl.rewards).model_fields))
    assert fault("zzzzzzzzz=1").endswith("known here: seed, report_to, model, data, sft, rl, eval")


def test_a_dotted_key_in_a_file_is_told_to_nest() -> None:
    assert "write each part on a line of its own" in fault(Text("rl.beta: 3\n", "mine.yaml"))


def test_a_duplicate_key_names_both_lines() -> None:
    text = fault(Text("rl:\n  beta: 0.1\n  epsilon: 0.2\n  beta: 0.3\n", "mine.yaml"))
    assert text == "mine.yaml:4: 'rl.beta' is given twice, first at mine.yaml:2"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("rl: [1\nseed: 2\n", "mine.yaml:2", "not YAML"),
        ("- 1\n- 2\n", "mine.yaml", "got a list of 2, wanted lines of `key: value`"),
        ("a: 1\n---\nb: 2\n", "mine.yaml:2", "not YAML"),
        ("seed: !!python/object/apply:os.system [ls]\n", "mine.yaml:1", "unknown key"),
        ("? [a, b]\n: 1\n", "mine.yaml:1", "a key must be one word"),
        ("a: &a [1]\nb: &b [*a,*a]\nc: &c " + "[" * 60 + "]" * 60, "mine.yaml:3", "nested deeper"),
        ("seed: &s [*s]\n", "mine.yaml:1", "nested deeper"),
        ("\x00", "mine.yaml", "not YAML"),
    ],
)
def test_a_file_that_cannot_be_read(text: str, place: str, words: str) -> None:
    if words == "unknown key":
        assert "wanted a whole number" in fault(Text(text, "mine.yaml"))
        return
    found = faults(Text(text, "mine.yaml"))
    assert (found[0].place, words in found[0].message) == (place, True), found


def test_an_alias_bomb_is_refused_quickly() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "more than 20000 values" in faults(Text("\n".join(lines), "bomb.yaml"))[0].message


def test_a_missing_or_unreadable_file(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert fault(File(missing)) == f"{missing}: cannot read the file: No such file or directory"
    assert "Is a directory" in fault(File(tmp_path))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    assert "not UTF-8 text" in fault(File(tmp_path / "bytes.yaml"))


def test_an_empty_file_is_a_layer_that_says_nothing() -> None:
    assert read(Text("# nothing yet\n", "mine.yaml")) == read()


def test_an_unreadable_layer_is_not_blamed_for_missing_keys() -> None:
    with pytest.raises(ConfigError) as caught:
        load(Config, [Text("rl: [", "bad.yaml")])
    assert [found.place for found in caught.value.faults] == ["bad.yaml:1"]


def test_missing_keys_say_what_they_are() -> None:
    found = faults(base=Text("sft: {max_steps: 3}\n", "mine.yaml"))
    assert [f"{fault.place} {fault.key}" for fault in found] == [
        "config model",
        "config data",
        "mine.yaml:1 sft.learning_rate",
        "mine.yaml:1 sft.max_length",
        "config rl",
        "config eval",
    ]
    assert "missing key 'sft.learning_rate' (peak learning rate)" in str(found[2])


def test_a_mistyped_required_key_is_one_fault_not_two() -> None:
    text = fault("sft=null", "sft={max_steps: 3, learning_rte: 1, max_length: 8}")
    assert text.endswith("unknown key 'sft.learning_rte'; did you mean 'sft.learning_rate'?")


# Keys that must fit together


def test_two_origins_say_which_to_remove() -> None:
    text = fault("model.path=some/model")
    assert text.startswith("override 'model.path=some/model': 'model': give exactly one of model.path")
    assert "model.scratch is from base.yaml:3" in text
    assert text.endswith("to keep model.path, add model.scratch=null")


def test_batch_algebra_fails_before_any_work_and_names_each_place() -> None:
    text = fault(Text("rl:\n  prompts_per_step: 3\n", "mine.yaml"), "rl.per_device_train_batch_size=5")
    assert "3 * 8 = 24 is not a multiple of per_device_train_batch_size = 5" in text
    assert "rl.prompts_per_step is from mine.yaml:2" in text
    assert "rl.per_device_train_batch_size is from override" in text


def test_keys_that_do_not_fit_are_heard_of_beside_a_mistyped_key() -> None:
    found = faults("rl.bteta=1", "rl.per_device_train_batch_size=5")
    assert [fault.key for fault in found] == ["rl.bteta", "rl"]


class Range(Settings):
    low: int = 0
    high: int = 9
    step: int | None = None
    count: int | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")
        if self.step and self.count:
            raise ValueError("give one of step and count")
        return self


class Ranges(Settings):
    ranges: tuple[Range, ...]


def test_keys_that_do_not_fit_in_an_item_of_a_list() -> None:
    base = Text("ranges:\n  - low: 3\n    count: 2\n", "ranges.yaml")
    (found,) = faults("ranges.0.high=2", model=Ranges, base=base)
    assert str(found) == (
        "override 'ranges.0.high=2': 'ranges.0': low=3 is above high=2 "
        "(ranges.0.low is from ranges.yaml:2, ranges.0.high is from override 'ranges.0.high=2')"
    )
    (found,) = faults("ranges.0.step=2", model=Ranges, base=base)
    assert str(found).endswith("to keep ranges.0.step, add ranges.0.count=null")


def test_schedules_and_rewards_are_checked() -> None:
    assert "stop_step=20 must not exceed max_steps=10" in fault("rl.stop_step=20")
    assert "every reward weight is 0" in fault("rl.rewards.accuracy=0")


# Every slip of the keyboard

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_.-ABZ "
ALL_KEYS = sorted(keys(Config))


def slips(key: str) -> Iterator[str]:
    """Every deletion and swap of neighbours, and a substitution and an insertion at every place."""
    rng = random.Random(key)
    for i in range(len(key)):
        yield key[:i] + key[i + 1 :]
        yield key[:i] + rng.choice(LETTERS) + key[i + 1 :]
    for i in range(len(key) + 1):
        yield key[:i] + rng.choice(LETTERS) + key[i:]
    for i in range(len(key) - 1):
        yield key[:i] + key[i + 1] + key[i] + key[i + 2 :]


@st.composite
def slip(draw: st.DrawFn) -> tuple[str, str]:
    key = draw(st.sampled_from(ALL_KEYS))
    i = draw(st.integers(0, len(key)))
    letter = draw(st.sampled_from(LETTERS))
    j = min(i, len(key) - 1)
    edits = [key[:i] + letter + key[i:], key[:j] + key[j + 1 :], key[:j] + letter + key[j + 1 :]]
    edits.append(key[:j] + key[j + 1 : j + 2] + key[j] + key[j + 2 :])
    return key, draw(st.sampled_from(edits))


@given(slip())
@settings(max_examples=200, deadline=None)
def test_every_slip_is_rejected_and_the_hint_is_usually_right(slipped: tuple[str, str]) -> None:
    _, typed = slipped
    if typed in ALL_KEYS:
        return  # adam_beta1 for adam_beta2: a key of its own
    found = faults(f"{typed}=1")
    assert any(fault.place == f"override '{typed}=1'" for fault in found)
    if typed:
        assert any(typed in fault.message and fault.hints for fault in found), found


def test_measured_rates_of_rejection_and_of_right_hints() -> None:
    tried = right = first = loaded = rejected = 0
    for key in ALL_KEYS:
        for i, typed in enumerate(slips(key)):
            if typed in ALL_KEYS or not typed:
                continue
            tried += 1
            hints = nearest_keys(typed, Config)
            right += key in hints
            first += hints[:1] == (key,)
            if i % 10 == 0:
                loaded += 1
                rejected += bool(faults(f"{typed}=1"))
    print(f"{tried} slips: right hint {right / tried:.2%}, in first place {first / tried:.2%}")
    assert tried > 5000
    assert rejected == loaded > 500
    assert right / tried >= 0.98
    assert first / tried >= 0.95


# Writing


def test_the_dump_reads_back_equal_and_by_other_readers_too() -> None:
    full = read("data.system_prompt='no: 1e-4 # not a comment'", "rl.adam_epsilon=1e-8")
    text = dump_yaml(full)
    assert load(Config, [Text(text, "again")]).settings == full
    assert yaml.safe_load(text) == json.loads(full.model_dump_json())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_text_survives_the_dump(text: str) -> None:
    part = Part(name=text)
    assert load(Part, [Text(dump_yaml(part), "again")]).settings == part


@given(st.floats(1e-300, 1e300))
@settings(max_examples=100, deadline=None)
def test_any_float_survives_the_dump(value: float) -> None:
    part = load(Part, [Text("name: x", "x"), Override(f"weight={value!r}")]).settings
    assert part.weight == value
    assert load(Part, [Text(dump_yaml(part), "again")]).settings == part


def test_shown_sources_are_comments() -> None:
    loaded = load(Config, [BASE, Override("seed=3")])
    shown = loaded.show(sources=True)
    assert "seed: 3  # override 'seed=3'\n" in shown
    assert "    hidden_size: 64  # base.yaml:4\n" in shown
    assert "  dtype: float32  # default\n" in shown
    assert load(Config, [Text(shown, "shown")]).settings == loaded.settings
    assert loaded.show() == dump_yaml(loaded.settings)


def test_the_schema_describes_keys_and_requires_none() -> None:
    schema = json_schema(Config)
    text = json.dumps(schema)
    assert '"required"' not in text
    assert "peak learning rate" in text
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {"seed", "report_to", "model", "data", "sft", "rl", "eval"}


# Presets


def test_presets_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.layers, "PRESETS", tmp_path)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "laptop.yaml").write_text("seed: x\n")
    assert config.presets("toy") == ["laptop"]
    assert str(config.preset("toy", "laptop")) == "toy/laptop.yaml"
    with pytest.raises(ConfigError, match="has no preset 'latpop': wanted 'laptop'; did you mean 'laptop'"):
        config.preset("toy", "latpop")
    with pytest.raises(ConfigError, match="it has none"):
        config.preset("other", "laptop")


PACKAGED = sorted((path.parent.name, path.stem) for path in config.PRESETS.glob("*/*.yaml"))


@pytest.mark.parametrize(("recipe", "name"), PACKAGED)
def test_every_packaged_preset_is_a_whole_config(recipe: str, name: str) -> None:
    module = importlib.import_module(f"postgrad.recipes.{recipe}")
    load(module.Config, [config.preset(recipe, name)])
