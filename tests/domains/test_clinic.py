"""MiniClinic: an oracle of its own recomputes every answer, splits share no case, and the tokenizer loses no character."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from postgrad.domains import clinic
from postgrad.domains.clinic import language
from postgrad.domains.clinic.world import band
from postgrad.records import Problem, Status, Trace
from postgrad.verify.choice import choice, turned

SPLITS = get_args(clinic.Split)
COUNTS = {"train": 1500, "validation": 250, "test": 500}
WORLD = clinic.world(0)


@pytest.fixture(scope="module")
def generated() -> dict[str, list[Problem]]:
    return {split: clinic.problems(WORLD, split, COUNTS[split], seed=seed) for seed, split in enumerate(SPLITS)}


# ---- The oracle: reads the question's words, knows the world's tables, shares no code with the generator --------------


def oracle(world: clinic.World, text: str) -> str:
    stem, *lines = re.sub(r" \(\d\)", "", text).split("\n")
    options = dict(line.split(". ") for line in lines)
    assert list(options) == ["A", "B", "C", "D"]
    for pattern, solve in (
        (r"Findings (.+); negative (\w+)\. Diagnosis\?", bayes),
        (r"Treat (\w+) with (.+)\. Drug\?", first_allowed),
        (r"Chances (.+)\. Next test\?", most_valuable),
        (r"Score (\w+) (.+)\. Risk\?", risk),
        (r"Agent (K\d\d)\. Organ\?", organ),
    ):
        if match := re.fullmatch(pattern, stem):
            (letter,) = (
                letter
                for letter, option in options.items()
                if option == solve(world, options.values(), *match.groups())
            )
            return letter
    raise AssertionError(f"no such question: {stem}")


def the_largest(values: dict[str, Any]) -> str:
    ranked = sorted(values, key=lambda name: values[name])
    assert values[ranked[-1]] > values[ranked[-2]], "two options are equally good"
    return ranked[-1]


def bayes(world: clinic.World, options: Any, findings: str, test: str) -> str:
    """Bayes' rule in fractions: equal priors, independent findings, and a test that is never negative in its diseases."""
    posterior = {}
    for disease in options:
        mass = Fraction(0 if disease in world.positive[test] else 1, len(options))
        for finding in findings.split():
            mass *= Fraction(2) ** (world.points[disease, finding] - 4)
        posterior[disease] = mass
    total = sum(posterior.values())
    return the_largest({disease: mass / total for disease, mass in posterior.items()})


def first_allowed(world: clinic.World, options: Any, disease: str, conditions: str) -> str:
    allowed = [drug for drug in options if not set(conditions.split()) & world.forbidden[drug]]
    return next(drug for drug in world.lines[disease] if drug in allowed)


def most_valuable(world: clinic.World, options: Any, chances: str) -> str:
    """Simulates each test on 10 patients: how often is the likeliest disease right, given what the test said?"""
    patients = [disease for disease, tenths in re.findall(r"(\D+?)(\d+) ?", chances) for _ in range(int(tenths))]
    assert len(patients) == 10
    value = {}
    for test in options:
        answers = {
            result: Counter(p for p in patients if (p in world.positive[test]) is result) for result in (True, False)
        }
        value[test] = sum(max(seen.values(), default=0) for seen in answers.values())
    return the_largest(value)


def risk(world: clinic.World, options: Any, score: str, factors: str) -> str:
    del options
    points = sum(world.risks[score, factor] for factor in factors.split())
    return "low" if points < 3 else "moderate" if points < 6 else "high" if points < 9 else "grave"


def organ(world: clinic.World, options: Any, code: str) -> str:
    del options
    return world.seats[code]


@settings(max_examples=25)
@given(
    world=st.integers(0, 2**32),
    seed=st.integers(0, 2**32),
    split=st.sampled_from(SPLITS),
    family=st.sampled_from(sorted(clinic.FAMILIES)),
    level=st.sampled_from(clinic.LEVELS),
)
def test_the_oracle_finds_every_answer_in_every_world(
    world: int, seed: int, split: Any, family: str, level: int
) -> None:
    known = clinic.world(world)
    for problem in clinic.problems(known, split, 8, seed=seed, families=(family,), levels=(level,)):
        assert problem.gold == oracle(known, problem.prompt[-1].content)
        for text in (problem.reference or "", clinic.answer_only(problem)):
            assert choice(problem, Trace(problem.id, text, (), (), "stop")).status is Status.CORRECT


def test_turning_the_options_keeps_the_answer(generated: dict[str, list[Problem]]) -> None:
    for problem in generated["test"][:50]:
        for places in range(4):
            moved = turned(problem, places)
            assert moved.gold == oracle(WORLD, moved.prompt[-1].content)


def test_every_step_of_every_worked_solution_is_true(generated: dict[str, list[Problem]]) -> None:
    """What a trace says of the world is what the tables say, and its sums add up."""
    claims = 0
    for problem in generated["train"]:
        family, reference, stem = problem.labels["family"], problem.reference or "", problem.prompt[0].content
        lines = [line for line in reference.split("\n") if line[:3] in ("A. ", "B. ", "C. ", "D. ")]
        # Options under their letters, what was found under its number, as in the question.
        assert [" ".join(re.findall(r"\w+\.?", line)[:2]) for line in lines] == stem.split("\n")[1:]
        marks = re.findall(r" \(\d\) [a-z]+", stem)
        for line in reference.split("\n")[1:2] if family == "prognosis" else lines:
            assert re.findall(r" \(\d\) [a-z]+", line) == marks
            name = re.findall(r"\w+", line)[1]
            if family in ("diagnosis", "prognosis"):
                table = WORLD.points if family == "diagnosis" else WORLD.risks
                points = re.findall(r" ([a-z]+)(\d)", line)
                assert all(table[name, item] == int(point) for item, point in points)
                assert sum(int(point) for _, point in points) == int(re.findall(r"=(\d+)", line)[0])
                claims += len(points)
            if family == "diagnosis":
                (test, verdict) = re.findall(r"; negative (\w+) (ok|no) ", line)[0]
                assert (name in WORLD.positive[test]) == (verdict == "no")
            if family == "uncertainty":
                signs = re.findall(r" ([a-z]+)(\d+)([+-])", line)
                assert all((disease in WORLD.positive[name]) == (sign == "+") for disease, _, sign in signs)
                there, away, both = map(int, re.findall(r"=(\d+)\+(\d+)=(\d+)$", line)[0])
                assert there + away == both
                claims += len(signs)
            if family == "treatment":
                disease, drugs = stem.split()[1], WORLD.lines[stem.split()[1]]
                (rank,) = map(int, re.findall(rf" {name} {disease}(\d)", line))
                said = re.findall(r"([a-z]+) (ok|no)\b", line)
                assert rank == (drugs.index(name) + 1 if name in drugs else 0)
                assert all((condition in WORLD.forbidden[name]) == (verdict == "no") for condition, verdict in said)
                claims += len(said)
        if family == "recall":
            (code,) = re.findall(r"K\d\d", stem)
            assert reference.split("\n")[1] == f"Agent {code} {WORLD.seats[code]}"
        if family in ("recall", "prognosis"):
            assert [line[0] for line in lines if line.endswith(" ok")] == [problem.gold]
        assert reference.endswith(f"\nSo {problem.gold}\n</think>\n\\boxed{{{problem.gold}}}")
    assert claims > 5000


def test_prognosis_never_improves_with_one_more_factor() -> None:
    bands = [language.BANDS.index(band(points)) for points in range(20)]
    assert bands == sorted(bands)
    assert set(bands) == {0, 1, 2, 3}


def test_no_turn_of_a_case_can_be_guessed() -> None:
    """Half of the diagnoses turn on the test; ranks of drugs and bands of risk are answers equally often."""
    made = clinic.problems(WORLD, "train", 900, seed=3, families=("diagnosis", "treatment", "prognosis"))
    turned, rank, risks = 0, Counter[int](), Counter[str]()
    for problem in made:
        text, reference = problem.prompt[0].content, problem.reference or ""
        (said,) = re.findall(rf"^{problem.gold}\. (\w+)$", text, re.MULTILINE)
        if problem.labels["family"] == "treatment":
            rank[WORLD.lines[text.split()[1]].index(said)] += 1
        elif problem.labels["family"] == "prognosis":
            risks[said] += 1
        else:
            sums = {
                name: int(total) for name, total in re.findall(r"^[A-D]\. (\w+);.*=(\d+)$", reference, re.MULTILINE)
            }
            turned += any(
                sums[name] > sums[said] for name in re.findall(r"^[A-D]\. (\w+);.* no ", reference, re.MULTILINE)
            )
    assert turned / 300 == pytest.approx(0.5, abs=0.12)
    assert {name: share / 300 for name, share in risks.items()} == pytest.approx(
        dict.fromkeys(language.BANDS, 0.25), abs=0.1
    )
    assert {at: share / 300 for at, share in rank.items()} == pytest.approx(dict.fromkeys(range(3), 1 / 3), abs=0.11)


# ---- Splits and balance ---------------------------------------------------------------------------------------------


def case(problem: Problem) -> tuple[str, frozenset[str]]:
    """The question's kind and its words and options in any order: what a reader would call the same case."""
    return problem.labels["family"], frozenset(
        re.findall(r"\w+", re.sub(r"\b[ABCD]\.|\(\d\)", "", problem.prompt[0].content))
    )


def test_no_split_shares_a_case_with_another(generated: dict[str, list[Problem]]) -> None:
    seen = {split: {case(problem) for problem in rows} for split, rows in generated.items()}
    assert all(len(found) > 200 for found in seen.values())
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not seen[one] & seen[other]


def test_one_call_gives_different_problems_of_every_family_level_and_letter(
    generated: dict[str, list[Problem]],
) -> None:
    rows = generated["train"]
    assert len({problem.id for problem in rows}) == len({problem.prompt for problem in rows}) == len(rows) == 1500
    assert Counter(problem.labels["family"] for problem in rows) == dict.fromkeys(clinic.FAMILIES, 300)
    assert {problem.labels["slice"] for problem in rows if problem.labels["family"] != "recall"} == {"multi_step"}
    assert min(Counter(problem.gold for problem in rows).values()) > 300, "no letter can be guessed"
    levels = Counter(problem.labels["level"] for problem in rows if problem.labels["slice"] == "multi_step")
    assert set(levels) == {"1", "2", "3"}
    assert min(levels.values()) > 150


def test_training_cases_state_every_code_that_the_test_asks() -> None:
    codes = {split: Counter[str]() for split in ("train", "test")}
    for split, seen in codes.items():
        for problem in clinic.problems(WORLD, split, 1500, seed=0, families=("recall",)):  # type: ignore[arg-type]
            seen.update(re.findall(r"K\d\d", problem.prompt[0].content))
    assert set(codes["train"]) == set(codes["test"]) == set(language.CODES)


def test_worlds_differ_in_facts_and_not_in_words() -> None:
    other = clinic.world(1)
    assert other.points != WORLD.points
    assert other.points.keys() == WORLD.points.keys()
    assert other.seats != WORLD.seats
    assert clinic.world(0) == WORLD


def test_what_there_is_not_is_an_error_that_says_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"no family 'surgery': wanted some of diagnosis, treatment"):
        clinic.problems(WORLD, "test", 3, seed=0, families=("surgery",))
    with pytest.raises(
        ValueError, match=r"different validation problems of recall at levels \[1\], 4000 wanted: ask for fewer"
    ):
        clinic.problems(WORLD, "validation", 4000, seed=0, families=("recall",), levels=(1,))


# ---- Tokens ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clinic_tokenizer() -> Any:
    return clinic.tokenizer()


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(st.sampled_from([*language.LAYOUT, *language.PHRASES, " fever", "<|im_end|>", " ", "  x"])).map("".join)
)
def test_the_tokenizer_loses_no_character_of_any_text(clinic_tokenizer: Any, text: str) -> None:
    ids = clinic_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert clinic_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_each_name_is_one_token_also_in_the_saved_folder(clinic_tokenizer: Any, tmp_path: Path) -> None:
    assert len(set(language.NAMES)) == len(language.NAMES)
    clinic_tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for made in (clinic_tokenizer, loaded):
        for field in (*language.LAYOUT, *language.PHRASES, *(f" {name}" for name in language.NAMES)):
            assert len(made(field, add_special_tokens=False)["input_ids"]) == 1, field
        assert made.eos_token == "<|im_end|>"
        assert made.pad_token_id != made.eos_token_id


def test_prompts_and_solutions_are_short(clinic_tokenizer: Any, generated: dict[str, list[Problem]]) -> None:
    """What presets size their limits by."""
    lengths = [
        [len(clinic_tokenizer(text)["input_ids"]) for text in (problem.prompt[0].content, problem.reference)]
        for problem in generated["train"]
    ]
    assert max(prompt for prompt, _ in lengths) <= 24
    assert max(solution for _, solution in lengths) <= 110


SCRIPT = """
from postgrad.domains import clinic
for split in ("train", "validation", "test"):
    for problem in clinic.problems(clinic.world(4), split, 30, seed=5):
        print(problem)
"""


def test_another_process_makes_the_same_problems() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = [str(problem) for split in SPLITS for problem in clinic.problems(clinic.world(4), split, 30, seed=5)]
    assert len(printed) == 1
    assert printed.pop().splitlines() == here
