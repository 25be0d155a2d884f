"""Reading tasks, candidates and CUDA-L1's released rows; every error names its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from postgrad.domains import loops
from postgrad.kernels import candidate, released, task
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.reference import Reference
from tests.kernels.small_tasks import MODEL, needs_sandbox, squares


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_loop_can_be_timed_at_another_size() -> None:
    """The sizes to check at stay: only the timed one is another."""
    (made,) = loops.tasks("train", 1, seed=0, families=["norm"])
    usual, small = (task.of_loop(made.task, lambda arrays: arrays[0], timed=timed) for timed in (None, made.task.quick))
    assert usual.timed is not None
    assert small.timed is not None
    assert (usual.timed.lengths, small.timed.lengths) == (made.task.timed, made.task.quick)
    assert usual.cases == small.cases
    assert [case.lengths for case in small.cases] == [*made.task.sizes[:-1]]


def test_what_a_task_cannot_be_asked_is_refused_by_task_and_field() -> None:
    sized, bare = task.Case(((8,),), (8,)), task.Case(((8,),))
    with pytest.raises(ValueError, match=r"sums: timed has no output: C\+\+ cannot be asked for its shape"):
        task.native("sums", "", timed=bare, oracle=lambda arrays: arrays[0])
    with pytest.raises(ValueError, match=r"sums: cases\[1\] has no output"):
        task.native("sums", "", timed=sized, cases=[sized, bare], oracle=lambda arrays: arrays[0])
    with pytest.raises(ValueError, match=r"softmax: cases has 1 sizes, but the inputs come from get_inputs\(\)"):
        task.from_text("softmax", MODEL, cases=(bare,))
    assert task.from_text("softmax", MODEL, cases=(bare,), timed=bare).cases == (bare,)


@needs_sandbox
def test_cases_of_a_module_are_asked_where_its_timed_shapes_are_given() -> None:
    """In KernelBench's form too: what fails at one of them is wrong."""
    shapes = [task.Case(((rows, 64),)) for rows in (1, 48)]
    given = task.from_text("softmax", MODEL, cases=(shapes[0],), timed=shapes[1])
    with Reference(given, seed=0) as reference:
        assert [reference.specs(case).outputs[0].shape for case in reference.cases] == [(1, 24), (48, 24)]
        assert {case for case, _ in reference.asks()} == set(shapes)


def test_a_file_in_kernel_bench_s_form_is_a_task(tmp_path: Path) -> None:
    found = task.kernel_bench(written(tmp_path, "3_Softmax.py", MODEL))
    assert (found.name, found.entry, found.wanted, found.timed) == ("3_Softmax", "Model", "ModelNew", None)


def test_so_is_a_file_with_one_function(tmp_path: Path) -> None:
    text = "import torch\ndef get_inputs(): return [torch.rand(3)]\ndef twice(x): return 2 * x\ndef _help(): pass\n"
    found = task.kernel_bench(written(tmp_path, "twice.py", text))
    assert (found.entry, found.wanted) == ("twice", "twice")


def test_and_a_plain_function_with_shapes() -> None:
    found = task.function("add", "def add(x, y):\n    return x + y", [(2, 3), (3,)], entry="add")
    assert found.timed is not None
    assert found.timed.inputs == ((2, 3), (3,))
    assert found.timed.lengths == (2, 3, 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = (", r"t\.py:1: syntax error"),
        ("class Model: pass", r"t\.py: the task defines no get_inputs; it defines Model"),
        ("def get_inputs(): pass", r"t\.py: no class Model and no single function.*none"),
        ("def get_inputs(): pass\ndef a(): pass\ndef b(): pass", r"functions: a, b"),
    ],
)
def test_what_is_no_task_says_so(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        task.kernel_bench(written(tmp_path, "t.py", text))


def test_a_missing_task_says_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file; wanted: Python that defines Model"):
        task.kernel_bench(tmp_path / "none.py")


def test_the_hash_of_a_task_sees_everything_that_decides_it() -> None:
    one = squares()
    assert one.sha256 == squares().sha256
    assert len({one.sha256, squares(rows=8).sha256, task.from_text("a", MODEL).sha256}) == 3


@pytest.mark.parametrize("layout", ["", "KernelBench/"])
def test_folders_of_any_version_are_read(tmp_path: Path, layout: str) -> None:
    for level, number in ((1, 1), (1, 10), (3, 2)):
        written(tmp_path, f"{layout}level{level}/{number}_Some_task.py", MODEL)
    written(tmp_path, f"{layout}level1/notes.py", "")
    written(tmp_path, "src/eval.py", "")
    assert sorted(task.kernel_bench_folder(tmp_path)) == [(1, 1), (1, 10), (3, 2)]


def test_one_level_s_folder_is_enough(tmp_path: Path) -> None:
    written(tmp_path, "level2/7_x.py", MODEL)
    assert list(task.kernel_bench_folder(tmp_path / "level2")) == [(2, 7)]


def test_two_tasks_of_one_number_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "level1/7_x.py", MODEL)
    written(tmp_path, "level1/7_y.py", MODEL + "\n")
    with pytest.raises(ValueError, match="two files of task 7"):
        task.kernel_bench_folder(tmp_path)


def test_a_folder_without_tasks_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no task; wanted: files such as level1/"):
        task.kernel_bench_folder(tmp_path)


# ---- Candidates


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("class ModelNew: pass", None),
        ("from x import Y as ModelNew", None),
        ("if True:\n    class ModelNew: pass", None),
        ("try:\n    import a\nexcept ImportError:\n    pass\nModelNew = make()", None),
        ("class Model: pass", "k.py: no ModelNew at the top level; it defines Model"),
        ("class ModelNew(:\n", "k.py:1: syntax error: invalid syntax"),
        ("def f():\n    class ModelNew: pass", "k.py: no ModelNew at the top level; it defines f"),
        ("x = 'not ended", "k.py:1: syntax error: unterminated string literal (detected at line 1)"),
    ],
)
def test_what_python_code_cannot_define_is_told_without_running_it(code: str, told: str | None) -> None:
    assert candidate.fault(Candidate(code, "torch", "k.py")) == told


def test_the_suffix_names_the_backend(tmp_path: Path) -> None:
    assert candidate.from_file(written(tmp_path, "k.cpp", "x")).backend == "cpp"
    assert candidate.from_file(written(tmp_path, "k.py", "x")).backend == "torch"
    assert candidate.from_file(written(tmp_path, "k.py", "x"), "triton").backend == "triton"
    with pytest.raises(ValueError, match=r"suffix '\.txt' is not one of"):
        candidate.from_file(written(tmp_path, "k.txt", "x"))
    with pytest.raises(ValueError, match="no such file"):
        candidate.from_file(tmp_path / "none.py")
    (tmp_path / "b.py").write_bytes(b"ok\xff")
    with pytest.raises(ValueError, match="byte 2 is not UTF-8"):
        candidate.from_file(tmp_path / "b.py")


# ---- Released rows

GOOD = "class ModelNew: pass"


def row(**changed: object) -> str:
    told = {"level_id": 1, "task_id": 2, "ref_code": MODEL, "custom_code": GOOD, "score_default": 1.5}
    return json.dumps(told | changed)


def test_the_traps_of_the_released_rows(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "a.json",
        "\n".join(
            [
                row(),
                row(task_id="3", custom_code=None, score_default="2.5"),
                row(level_id="3", task_id=26, custom_code="x = 'not ended"),
                row(task_id=4, custom_code="None", score_default=None),
                "",
                row(task_id=5, custom_code="class Model: pass", score_default="None"),
            ]
        ),
    )
    rows = list(released.read(path))
    assert [one.key for one in rows] == [(1, 2), (1, 3), (3, 26), (1, 4), (1, 5)]
    assert [one.usable for one in rows] == [True, False, False, False, False]
    assert [one.claimed["score_default"] for one in rows] == [1.5, 2.5, 1.5, None, None]
    assert rows[2].fault is not None
    assert rows[2].fault.startswith(f"{path}:3:1: syntax error")
    assert released.count(rows) == released.Counts(rows=5, without_code=2, unusable=2, usable=1, claims_without_code=1)
    assert rows[0].as_task().entry == "Model"
    assert rows[0].candidate().origin == f"{path}:1"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", r"a\.json:1: not JSON"),
        ("[1]", "no an object"),
        ('{"level_id": 1}', "no task_id, ref_code, custom_code"),
        (row(level_id="one"), "level_id is 'one', not a whole number"),
    ],
)
def test_a_row_that_is_none_says_where(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        list(released.read(written(tmp_path, "a.json", line)))


def test_references_of_another_version_are_named(tmp_path: Path) -> None:
    same = written(tmp_path, "level1/2_a.py", MODEL.replace("\n\n\n", "\n\n"))
    other = written(tmp_path, "level1/3_b.py", MODEL.replace("48", "64"))
    rows = list(released.read(written(tmp_path, "a.json", "\n".join([row(), row(task_id=3), row(task_id=9)]))))
    assert released.foreign_references(rows, {(1, 2): same, (1, 3): other}) == [(1, 3), (1, 9)]
