"""The recipe cuda_l1, shrunk to seconds, with a judge whose verdicts follow from a kernel's text."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from postgrad import config
from postgrad.kernels import archive
from postgrad.kernels.gather import successes, until_right
from postgrad.kernels.ledger import Ledger
from postgrad.recipes import cuda_l1
from postgrad.recipes.cuda_l1 import gathering, tasks
from postgrad.records import Example, Graded, Problem, Status, Trace, Verdict, read_jsonl
from postgrad.run import Preempted, Run, read_lines
from tests import tiny_cuda_l1 as tiny

STAGES = ["base", "data", "gather", "pretrain", "sft", "self_supervised", "grpo", "contrastive", "eval"]
MODELS = ["sft", "self_supervised", "evolved", "grpo", "contrastive"]


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        tiny.scripted(patch)
        yield patch


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, patched: pytest.MonkeyPatch) -> Path:
    del patched
    out = tmp_path_factory.mktemp("cuda_l1") / "run"
    cuda_l1.main(*tiny.start(out))
    return out


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def rollouts(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "rollouts").glob(f"{stage}-*.jsonl")) for row in read_lines(path)]


def environment(folder: Path) -> str:
    return f"{Run.open(folder).manifest['hardware']['cpu']}, quick"


# ---- What it does


def test_stages_in_order_each_from_the_one_before(finished: Path) -> None:
    stages = Run.open(finished).stages()
    assert [(name, one["status"]) for name, one in stages.items()] == [(name, "done") for name in STAGES]
    assert stages["self_supervised"]["result"].startswith("checkpoints/self_supervised/")
    first = {arm: rollouts(finished, arm)[:4] for arm in cuda_l1.ARMS}
    grpo, contrastive = (Counter(row["problem_id"] for row in rows) for rows in first.values())
    assert grpo == contrastive, "both arms are asked about the same tasks"


def test_training_validation_and_test_share_no_task(finished: Path) -> None:
    split = {
        name: {one.id for one in read_jsonl(Problem, finished / "data" / f"{name}.jsonl")}
        for name in ("train", "validation", "test")
    }
    assert [len(ids) for ids in split.values()] == [4, 2, 3]
    assert len(set.union(*split.values())) == 9
    known = cuda_l1.tasks_of(tiny.settings())
    assert len(known.made) == 9 + 8, "those that are only read are others"
    trained = {known.made[name].task.labels["composition"] for name in known.made if name not in split["test"]}
    assert not trained & {known.made[name].task.labels["composition"] for name in split["test"]}


def test_sft_trains_on_successes_only_at_most_two_of_a_sampler_and_task(finished: Path) -> None:
    known = cuda_l1.tasks_of(tiny.settings())
    verdicts = Ledger(finished / "verdicts.jsonl").verdicts()
    rows = list(read_jsonl(Example, finished / "data" / "sft.jsonl"))
    plain = [row for row in rows if " compared " not in row.id]
    right = {
        (task, verdict.environment.code_sha256)
        for (task, _), verdict in verdicts.items()
        if verdict.status == "accepted"
    }
    ids = {problem.id for problem in known.splits["train"]}
    assert plain
    for row in plain:
        task = row.id.rpartition(" ")[0]
        assert task in ids
        assert (task, _sha(known.parse(row.response))) in right
    assert max(Counter(row.id.rpartition(" ")[0] for row in plain).values()) <= 2 * 5
    told = Run.open(finished).stages()["gather"]["result"]
    for teacher in told["samplers"].values():
        assert teacher["kept"] <= 2 * 6
        assert teacher["tries"] <= 20 * 6
        assert teacher["tries"] == sum(teacher.get(status, 0) for status in map(str, Status))


def _sha(code: str | None) -> str:
    import hashlib

    return hashlib.sha256(str(code).encode()).hexdigest()


def test_a_comparison_is_answered_by_what_is_faster_than_all_it_shows() -> None:
    asked = tiny.settings("data.loops.compared=12")
    known = cuda_l1.tasks_of(asked)
    from postgrad.domains import loops

    problem = known.splits["train"][0]
    variants = loops.variants(known.made[problem.id])
    speeds = [1.0 + place / 2 for place in range(len(variants))]
    group = [
        Graded(problem, Trace(problem.id, loops.answer(one.code), (), (), "stop"), Verdict(Status.CORRECT, speed))
        for one, speed in zip(variants[1:], speeds[1:], strict=True)
    ]
    rows = gathering._rows(asked, known, [group])[len(group) :]
    assert rows
    by_code = {one.code.strip(): speed for one, speed in zip(variants, speeds, strict=True)}
    for row in rows:
        _, *shown = row.prompt[0].content.split("\nCode ")
        scores = [float(text.partition(" ran at ")[2].partition("x:")[0]) for text in shown]
        assert 1 <= len(scores) <= 2
        assert by_code[str(known.parse(row.response)).strip()] > max(scores)


def test_self_supervision_credits_successes_and_nothing_else(finished: Path) -> None:
    rows = rollouts(finished, "self_supervised")
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        expected = {"correct": 1.0, "unchecked": None}.get(row["status"], 0.0)
        assert row["advantage"] == row["reward"] == expected


def test_rewards_of_the_arms_are_smoothed_speed_ups(finished: Path) -> None:
    for arm in cuda_l1.ARMS:
        rows = rollouts(finished, arm)
        assert len(rows) == 3 * 2 * 2, "as many answers in both arms"
        for row in rows:
            assert (row["reward"] is None) == (row["status"] == "unchecked")
            assert row["reward"] is None or -1.5 <= row["reward"] <= 1.5


def test_the_archive_grows_and_prompts_show_what_was_there_before_the_step(finished: Path) -> None:
    known = cuda_l1.tasks_of(tiny.settings())
    where = environment(finished)
    with archive.reading(finished / "archives" / "contrastive.sqlite") as codes:
        by_step = Counter[int]()
        for problem in known.splits["train"]:
            own = codes.successes(problem.id, where)
            by_step.update(one.place.step for one in own if one.place)
            hashes = {one.hash: one for one in own}
            for attempt in codes.attempts(problem.id, where):
                if attempt.place.step == 0:
                    assert attempt.sampler in ("gather", "self_supervised")
                    continue
                assert len(attempt.parents) == 2
                texts = []
                for parent in attempt.parents:
                    if parent in hashes:
                        place = hashes[parent].place
                        assert place is not None
                        assert place.step < attempt.place.step
                        texts.append(hashes[parent].code)
                prompts = [
                    row["prompt"]
                    for row in read_lines(finished / "rollouts" / f"contrastive-{attempt.place.step:06d}.jsonl")
                    if row["problem_id"] == problem.id
                ]
                assert any(all(text.strip() in prompt for text in texts) for prompt in prompts)
        assert by_step[0] > 0
        assert sum(count for step, count in by_step.items() if step > 0) > 0
    for row in rollouts(finished, "grpo"):
        assert row["prompt"] in {problem.prompt[0].content for problem in known.splits["train"]}


def test_without_seeds_a_first_prompt_shows_the_reference_alone_and_later_ones_the_models_own(
    tmp_path: Path, patched: pytest.MonkeyPatch
) -> None:
    del patched
    run = tmp_path / "run"
    # Every step asks about every task, so that the second step's prompts have codes of the first's.
    cuda_l1.main(
        *tiny.start(run, "contrast.seeded=false", "rl.prompts_per_step=4", "rl.max_steps=2", "rl.eval_steps=2")
    )
    first, second = (read_lines(run / "rollouts" / f"contrastive-{step:06d}.jsonl") for step in (1, 2))
    assert all(row["prompt"].count(" ran at ") == 1 for row in first)
    written = {row["problem_id"]: [] for row in first}
    for row in first:
        if row["status"] == "correct":
            written[row["problem_id"]].append(row["text"].strip())
    again = [row for row in second if written[row["problem_id"]]]
    assert again
    for row in again:
        assert any(text in row["prompt"] for text in written[row["problem_id"]])


def test_the_monitors_numbers_are_logged(finished: Path) -> None:
    rows = [row for row in read_lines(finished / "metrics.jsonl") if row["stage"] == "contrastive"]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all("hacks/any" in row and "hacks/unchecked" in row for row in rows)


# ---- What it says


def test_the_summary_adds_up(finished: Path) -> None:
    summary = summary_of(finished)
    assert list(summary["models"]) == MODELS
    for name, told in summary["models"].items():
        rows = read_lines(finished / "evals" / f"{name}.jsonl")
        assert len(rows) == told["n"] == 3 * 2 * 1, "three tasks, two rounds, one answer"
        counts = Counter(row["status"] for row in rows)
        checked = told["n"] - counts["unchecked"]
        assert told["correct"]["value"] == pytest.approx(counts["correct"] / checked)
        scores = [float(row["reason"].partition("x")[0]) for row in rows if row["status"] == "correct"]
        if scores:
            assert told["speedup"]["value"] == pytest.approx(math.exp(sum(map(math.log, scores)) / len(scores)))
        else:
            assert told["speedup"] is None, "what is nowhere right has no speed"
        assert told["fast"]["value"] == pytest.approx(sum(score > 1.01 for score in scores) / checked)
        kept = [math.log(max(1, score)) for score in scores]
        assert told["kept"]["value"] == pytest.approx(math.exp(sum(kept) / checked))
    names = {row["name"]: row for row in summary["comparisons"]}
    sources = {
        "self_supervised_over_sft": "correct difference, sft to self_supervised",
        "contrastive_over_grpo": "speedup ratio, grpo to contrastive",
    }
    wanted = {claim: names[source]["value"] for claim, source in sources.items() if source in names}
    assert {claim["id"]: claim["measured"] for claim in summary["claims"]} == wanted
    assert "self_supervised_over_sft" in wanted
    assert names["found ratio, grpo to contrastive"]["n"] <= 4


def test_costs_count_every_answer_and_every_verdict(finished: Path) -> None:
    rows = {row["stage"]: row for row in read_lines(finished / "costs.jsonl")}
    assert set(rows) == {"gather", "self_supervised", "grpo", "contrastive", "eval"}
    # Two validations tasks, one answer each, once.
    assert sum(rows["grpo"]["asked"].values()) == sum(rows["contrastive"]["asked"].values()) == 12 + 2
    assert sum(rows["eval"]["asked"].values()) == 5 * 6
    judged = sum(sum(row["judged"].values()) for row in rows.values())
    assert judged == len(read_lines(finished / "verdicts.jsonl"))
    table = summary_of(finished)["kernels"]["costs"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_the_page_shows_stages_families_and_a_kernel_with_what_it_changes(finished: Path) -> None:
    from postgrad import report

    html = report.write(finished).read_text()
    assert summary_of(finished)["headline"].split(";")[0] in html
    for text in (
        "By stage",
        "By family",
        "What judging cost",
        "Contrastive GRPO",
        "plane",
        "What it changes in the reference",
    ):
        assert text in html


# ---- Going on


def test_a_run_that_is_stopped_in_every_stage_ends_as_one_that_was_not(
    finished: Path, tmp_path: Path, patched: pytest.MonkeyPatch
) -> None:
    asked, run = tiny.start(tmp_path / "run")
    stops = 0
    log = Run.log
    with pytest.MonkeyPatch.context() as patch:

        def stopping(self: Run, stage: str, step: int, numbers: Any) -> None:
            log(self, stage, step, numbers)
            nonlocal stops
            if step == 1 and stage in ("sft", "self_supervised", "grpo", "contrastive"):
                stops += 1
                self.stop_requested = "SIGTERM"

        patch.setattr(Run, "log", stopping)
        while True:
            try:
                cuda_l1.main(asked, run)
                break
            except Preempted:
                run = Run.open(run.folder)
    assert stops == 4
    ours, theirs = summary_of(run.folder), summary_of(finished)
    for name in ("seconds", "kernels"):
        tables = ours.pop(name), theirs.pop(name)
    assert tables[0]["stages"] == tables[1]["stages"]
    assert ours == theirs
    for stage in ("self_supervised", *cuda_l1.ARMS):
        assert rollouts(run.folder, stage) == rollouts(finished, stage)
        assert _codes(run.folder, stage) == _codes(finished, stage)


def _codes(folder: Path, stage: str) -> list[Any]:
    with closing(sqlite3.connect(folder / "archives" / f"{stage}.sqlite")) as database:
        return sorted(database.execute("SELECT task, hash, status, score, step, draw, sample FROM code"))


def test_a_known_code_is_never_judged_again(finished: Path, patched: pytest.MonkeyPatch) -> None:
    before = tiny.Scripted.judged
    known = cuda_l1.tasks_of(tiny.settings())
    problem = known.splits["test"][0]
    row = next(
        row
        for row in read_lines(finished / "evals" / "contrastive.jsonl")
        if row["problem_id"] == problem.id and row["status"] in ("correct", "wrong")
    )
    with cuda_l1.judge(tiny.settings(), Run.open(finished), known, "again") as verifier:
        verdict = verifier(problem, Trace(problem.id, row["text"], (), (), "stop"))
    assert (str(verdict.status), verdict.reason) == (row["status"], row["reason"])
    assert tiny.Scripted.judged == before
    del patched


# ---- Gathering


class Says:
    """Answers sample k of every problem with k; counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def sample(self, problems: Any, n: int) -> list[list[Trace]]:
        self.asked.append(n * len(problems))
        return [[Trace(problem.id, str(k), (), (), "stop") for k in range(n)] for problem in problems]


@pytest.mark.parametrize(
    ("right", "wanted"),
    [
        ({"0", "1"}, 2),  # both at once
        ({"1", "4"}, 5),  # one at a time until the second
        ({"19"}, 20),  # as many tries as there are
        (set(), 20),
    ],
)
def test_a_sampler_is_asked_until_two_are_right_or_twenty_are_tried(right: set[str], wanted: int) -> None:
    def verifier(problem: Problem, trace: Trace) -> Verdict:
        del problem
        ok = trace.text in right
        return Verdict(Status.CORRECT if ok else Status.WRONG, 2.0 if ok else 0.0)

    problems = [Problem("one", (), None), Problem("two", (), None)]
    rows = until_right(Says(), problems, verifier, lambda text: text, keep=2, tries=20)
    assert [[item.trace.text for item in row] for row in rows] == [[str(k) for k in range(wanted)]] * 2


def test_what_could_not_be_checked_is_no_success() -> None:
    def verifier(problem: Problem, trace: Trace) -> Verdict:
        del problem, trace
        return Verdict(Status.UNCHECKED, None)

    (row,) = until_right(Says(), [Problem("one", (), None)], verifier, lambda text: text, keep=2, tries=20)
    assert len(row) == 20
    assert successes(row, lambda text: text) == []


# ---- What is refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.loops=null", "give exactly one of data.loops"),
        ("gather.teachers=[]", "give gather.teachers"),
        ("rl.max_prompt_length=90", "has no room for 2 codes"),
        ("data.loops.read=0", "pretrain is for a model from nothing"),
        ("contrast.strategy=best", "buckets"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_the_run(override: str, message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        tiny.settings(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.loops.families=[softmax, sorting]", "want some of elementwise"),
        ("rl.max_prompt_length=120", "a contrastive prompt may have"),
        ("self_supervised.prompts_per_step=9", "fewer than self_supervised.prompts_per_step=9"),
    ],
)
def test_tasks_that_do_not_fit_are_told_before_anything_is_trained(tmp_path: Path, override: str, message: str) -> None:
    overrides = [override, "self_supervised.per_device_train_batch_size=2"]
    with pytest.raises(ValueError, match=message):
        cuda_l1.main(*tiny.start(tmp_path / "run", *overrides))
    assert not (tmp_path / "run" / "checkpoints" / "pretrain").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.loops.language=triton", "triton kernels have a speed on a GPU only: set judging.gpu=0"),
        ("judging.gpu=0", r"C\+\+ kernels run on the CPU: set judging.gpu=null"),
    ],
)
def test_kernels_and_the_machine_that_they_run_on_must_fit(override: str, message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        tiny.settings(override)


def test_a_machine_without_a_gpu_is_told_of_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [config.preset("cuda_l1", "paper"), config.Override(f"data.kernel_bench.folder={tmp_path}")]
    asked = config.load(cuda_l1.Config, layers).settings
    run = Run.create(tmp_path / "run", recipe="cuda_l1", preset="paper", config=asked, command=["postgrad", "run"])
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    with pytest.raises(ValueError, match=r"cuda kernels with judging\.gpu=0: no NVIDIA GPU 0 here"):
        cuda_l1.main(asked, run)
    assert run.stages() == {}


# ---- The shipped presets


@pytest.mark.parametrize("name", ["laptop", "gpu"])
def test_the_longest_prompts_and_answers_fit(name: str) -> None:
    from postgrad import chat
    from postgrad.domains import loops

    layers = [config.preset("cuda_l1", name), config.Override("data.loops.read=1")]
    asked = config.load(cuda_l1.Config, layers).settings
    known, tokenizer = cuda_l1.tasks_of(asked), tasks.own_tokenizer(asked)()
    assert asked.model.scratch is not None
    assert asked.gather.tries == 20
    assert asked.gather.keep == asked.contrast.exemplars == 2
    positions = asked.model.scratch.max_position_embeddings
    assert asked.rl.max_prompt_length + asked.rl.max_completion_length <= positions
    assert asked.rl.max_prompt_length + asked.eval.max_tokens <= positions
    longest = max(len(chat.prompt_ids(tokenizer, one.prompt)) for rows in known.splits.values() for one in rows)
    assert longest <= asked.self_supervised.max_prompt_length
    assert longest + 2 * asked.rl.max_completion_length <= asked.rl.max_prompt_length
    for one in list(known.made.values())[:40]:
        variants = loops.variants(one)
        language = one.task.language
        answers = [loops.answer(each.code, language) for each in variants]
        answers.append(loops.compared([(variants[0], 1.0), (variants[1], 2.0)], variants[-1], language))
        lengths = [len(tokenizer(text)["input_ids"]) + 1 for text in answers]
        assert max(lengths[:-1]) <= asked.self_supervised.max_completion_length
        assert max(lengths) <= min(asked.rl.max_completion_length, asked.eval.max_tokens)
