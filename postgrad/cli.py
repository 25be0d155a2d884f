"""The command line. Nothing heavy is imported before a command needs it, so that --help is quick.

Exit codes: 0 done, 1 failed, 2 usage or config, 75 stopped by SIGTERM or SIGUSR1 and resumable, 130 stopped by Ctrl-C.
Results go to stdout, everything else to stderr; a traceback is shown with --debug only.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from postgrad.ranks import joined

if TYPE_CHECKING:
    from postgrad.config import Loaded, Settings
    from postgrad.kernels import evaluate as kernel_evaluation
    from postgrad.kernels.verdict import KernelVerdict
    from postgrad.run import Run

FAILED, USAGE, PREEMPTED, INTERRUPTED = 1, 2, 75, 130

app = typer.Typer(
    help="Turn a general language model into a domain expert.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Look at data before training on it.", no_args_is_help=True)
app.add_typer(data, name="data")
kernels = typer.Typer(help="Judge and compare kernels.", no_args_is_help=True)
app.add_typer(kernels, name="kernels")


def main() -> None:
    """The entry point of `postgrad`."""
    app(prog_name="postgrad")


# Recipes


def recipes() -> dict[str, str]:
    """Names of the recipes and their first docstring lines, without importing any."""
    import ast
    import pkgutil

    import postgrad.recipes

    found = {}
    for module in pkgutil.iter_modules(postgrad.recipes.__path__):
        spec = module.module_finder.find_spec(module.name, None)
        if module.name.startswith("_") or spec is None or spec.origin is None:
            continue
        docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
        found[module.name] = docstring.partition("\n")[0]
    return found


def _recipe(name: str) -> ModuleType:
    import importlib

    from postgrad.config import ConfigError, Fault, nearest_words

    known = list(recipes())
    module = name.replace("-", "_")
    if module not in known:
        message = f"no recipe '{name}'; known recipes: {', '.join(known)}"
        raise ConfigError([Fault("RECIPE", "", message, nearest_words(module, known))])
    return importlib.import_module(f"postgrad.recipes.{module}")


def _load(
    recipe: ModuleType, preset: str, algorithm: str | None, files: Sequence[Path], overrides: Sequence[str]
) -> Loaded[Settings]:
    from postgrad import config

    name = recipe.__name__.rpartition(".")[2]
    layers: list[config.Source] = [
        config.preset(name, preset),
        *([config.algorithm(algorithm)] if algorithm else []),
        *map(config.File, files),
        *config.environment(os.environ),
    ]
    loaded: Loaded[Settings] = config.load(recipe.Config, [*layers, *map(config.Override, overrides)])
    return loaded


def _complete_recipe() -> list[str]:
    return list(recipes())


# Endings


class _UsageError(Exception):
    """What was asked cannot be done as asked. Exit code 2."""


@contextmanager
def _endings(debug: bool, run: Run | None = None) -> Iterator[None]:
    """Turn how a command ends into its exit code and, where it is not done, a message with what to do."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, typer.Exit):
            raise
        if debug:
            import traceback

            traceback.print_exception(error)
        code, message = _explain(error, run)
        _say(message)
        raise typer.Exit(code) from None


def _explain(error: BaseException, run: Run | None) -> tuple[int, str]:
    from postgrad.config import ConfigError
    from postgrad.run import Failed, Preempted

    go_on = "" if run is None else f"\ncontinue with: postgrad resume {shlex.quote(str(run.folder))}"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"stopped by Ctrl-C{go_on}"
    if isinstance(error, Preempted):
        by_hand = run is not None and run.stop_requested == CTRL_C
        return INTERRUPTED if by_hand else PREEMPTED, f"{error}{go_on}"
    if isinstance(error, ConfigError | _UsageError):
        return USAGE, f"error: {error}"
    if isinstance(error, Failed | ValueError | OSError):
        return FAILED, f"error: {error}"
    if isinstance(error, ImportError):
        return FAILED, f"error: {error}; `postgrad doctor` says what is missing"
    name = type(error).__name__
    return FAILED, f"error: {name}: {error}\nprobably a fault in postgrad: --debug shows where it comes from"


def _say(message: str) -> None:
    typer.echo(message, err=True)


CTRL_C = "Ctrl-C"


@contextmanager
def _stoppable(run: Run) -> Iterator[None]:
    """The first signal asks the run to save and stop after its step; a second Ctrl-C stops it at once."""

    def ask(number: int, _: FrameType | None) -> None:
        if run.stop_requested == CTRL_C and number == signal.SIGINT:
            raise KeyboardInterrupt
        run.stop_requested = CTRL_C if number == signal.SIGINT else signal.Signals(number).name
        again = "; once more stops at once, without saving" if number == signal.SIGINT else ""
        # Not print(), which may be in the middle of a line here and cannot be entered twice.
        os.write(2, f"\n{run.stop_requested}: saving after this step{again}\n".encode())

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Commands


def _version(asked: bool) -> None:
    if asked:
        from postgrad import __version__

        typer.echo(f"postgrad {__version__}")
        raise typer.Exit


Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="See `postgrad recipes`.", autocompletion=_complete_recipe)
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as rl.learning_rate=1e-5.")]
Preset = Annotated[str, typer.Option(help="Packaged settings: laptop, gpu or paper.")]
Algorithm = Annotated[str | None, typer.Option(help="Of RL, over the preset: grpo, dapo, dr_grpo or gazal.")]
Files = Annotated[list[Path] | None, typer.Option("--config", help="YAML over the preset; can be given again.")]
Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the resolved config and stop.")]
Sources = Annotated[bool, typer.Option("--sources", help="The same, with the place of each value.")]
Out = Annotated[Path | None, typer.Option(help="A new folder; else runs/RECIPE-PRESET-TIME.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


@app.callback()
def _root(version: Version = False) -> None:
    del version


@app.command()
def run(
    recipe: Recipe,
    overrides: Overrides = None,
    preset: Preset = "laptop",
    algorithm: Algorithm = None,
    config: Files = None,
    out: Out = None,
    print_config: PrintConfig = False,
    sources: Sources = False,
    debug: Debug = False,
) -> None:
    """Train and measure by a recipe."""
    with _endings(debug):
        module = _recipe(recipe)
        loaded = _load(module, preset, algorithm, config or [], overrides or [])
        if print_config or sources:
            typer.echo(loaded.show(sources=sources), nl=False)
            return
        from postgrad.run import Run

        name = module.__name__.rpartition(".")[2]
        folder = out or Path("runs") / f"{name}-{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
        command = ["postgrad", *sys.argv[1:]]

    def create() -> Run:
        try:
            return Run.create(folder, recipe=name, preset=preset, config=loaded.settings, command=command)
        except ValueError as error:
            raise _UsageError(error) from error

    _carry_out(module, loaded.settings, create, debug)


@app.command()
def resume(folder: RunFolder, debug: Debug = False) -> None:
    """Go on with a run that was stopped."""
    with _endings(debug):
        from postgrad import config

        opened = _open(folder)
        module = _recipe(opened.recipe)
        loaded = config.load(module.Config, [config.Text(opened.config_text, str(folder / "config.yaml"))])
    _carry_out(module, loaded.settings, lambda: opened, debug)


def _open(folder: Path) -> Run:
    from postgrad.run import Run

    try:
        return Run.open(folder)
    except ValueError as error:
        raise _UsageError(error) from error


def _carry_out(module: ModuleType, settings: Settings, begin: Callable[[], Run], debug: bool) -> None:
    """Alone, or as one of the ranks that torchrun started: rank 0 begins the run and tells how it goes."""
    with _endings(debug), joined() as ranks:
        begun = begin() if ranks.is_main else None
        folder = ranks.agree(begun.folder if begun else Path())
        run = begun or _open(folder)
        run.ranks = ranks
        with _endings(debug, run), _stoppable(run), ranks.guard():
            _main(module, settings, run)


def _main(module: ModuleType, settings: Settings, run: Run) -> None:
    from postgrad import progress, report

    if run.ranks.is_main:
        run.progress = progress.auto()
        _say(f"run folder: {run.folder}")
    try:
        summary = module.main(settings, run)
    finally:
        run.progress.finish()
    if run.ranks.is_main:
        _show_claims(summary)
        typer.echo(f"report: {report.write(run.folder)}")


def _show_claims(summary: Mapping[str, Any]) -> None:
    for claim in summary.get("claims", ()):
        low, high = claim["interval"]
        met = "met    " if claim["met"] else "NOT MET"
        measured = f"{claim['measured']:.4g} [{low:.4g}, {high:.4g}], n = {claim['n']}"
        claimed = f"claimed {claim['op']} {claim['threshold']:g}"
        typer.echo(f"{met} {claim['id']}: {claim['statement']}: {measured} ({claimed})")


@app.command("eval")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            help="A run, a Hugging Face folder, a hub id, or an OpenAI-compatible address with /v1.",
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="Problems with answers; those of the run if one is given.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Traces for each problem.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a trace at most.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy.")] = 1.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first problems.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option(help="A folder for the traces.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message for prompts that have none.")] = None,
    turns: Annotated[
        int, typer.Option(min=1, max=10, help="Ask multiple choice in so many orders of its options, and compare.")
    ] = 1,
    name: Annotated[str | None, typer.Option(help="The model's name at the address.")] = None,
    key_variable: Annotated[
        str | None, typer.Option(help="The environment variable that holds the address's key.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure a model, or the best checkpoint of a run, on problems with answers."""
    with _endings(debug):
        import json

        if (Path(model) / "manifest.json").is_file():
            from postgrad.export import checkpoint

            data = data or Path(model) / "data" / "test.jsonl"
            model = str(checkpoint(Path(model)))
        if data is None:
            raise _UsageError("--data is missing: a file of problems with answers (only a run brings its own)")
        from postgrad.evaluate import measure

        found = measure(
            model,
            data,
            samples=samples,
            max_tokens=max_tokens,
            temperature=temperature,
            limit=limit,
            seed=seed,
            out=out,
            system=system,
            turns=turns,
            name=name,
            key_variable=key_variable,
        )
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))


@app.command()
def report(
    folder: Annotated[Path | None, typer.Argument(metavar="PATH", help="A run, a search, or kernels' records.")] = None,
    results: Annotated[Path | None, typer.Option(help="Print the table of such a folder, as docs/results.")] = None,
    debug: Debug = False,
) -> None:
    """Write the page of a run, a search or kernels' records, or print the table of a folder of results."""
    with _endings(debug):
        if (folder is None) == (results is None):
            raise _UsageError("give exactly one of PATH and --results DIR")
        if results is not None:
            from postgrad.report import results_table

            typer.echo(results_table(results))
        elif folder is not None:
            from postgrad.pages import is_kernels, kernel_page
            from postgrad.report import write

            if not (folder / "manifest.json").is_file() and is_kernels(folder):
                typer.echo(str(kernel_page(folder)))
                return

            _open(folder)
            typer.echo(str(write(folder)))


@app.command()
def diagnose(folder: RunFolder, debug: Debug = False) -> None:
    """Say what a run's numbers show: a hacked reward, instability, nothing learnt. JSON lines to stdout, words to stderr."""
    with _endings(debug):
        import json
        from dataclasses import asdict

        from postgrad import diagnose as reading

        try:
            stages, alarms = reading.diagnose(folder)
        except ValueError as error:
            raise _UsageError(error) from error
        for alarm in alarms:
            typer.echo(json.dumps(asdict(alarm), ensure_ascii=False))
        _say(reading.told(stages, alarms))


@app.command()
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    preset: Preset = "laptop",
    algorithm: Algorithm = None,
    config: Files = None,
    debug: Debug = False,
) -> None:
    """Show what a run would do and need, without doing it."""
    with _endings(debug):
        module = _recipe(recipe)
        planned = module.plan(_load(module, preset, algorithm, config or [], overrides or []).settings)
        _table(planned if isinstance(planned, Mapping) else planned.rows)


def _table(content: Mapping[str, Any] | Sequence[Any]) -> None:
    """A mapping as name and value; rows as they are, with a heading where they are mappings."""
    from rich.console import Console
    from rich.table import Table

    rows: list[Any] = list(content.items()) if isinstance(content, Mapping) else list(content)
    headed = bool(rows) and isinstance(rows[0], Mapping)
    table = Table(box=None, pad_edge=False, show_header=headed)
    for name in rows[0] if headed else ():
        table.add_column(str(name), overflow="fold")
    for row in rows:
        cells = row.values() if isinstance(row, Mapping) else row
        table.add_row(*(cell if isinstance(cell, str) else _cell(cell) for cell in cells))
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@app.command()
def doctor(debug: Debug = False) -> None:
    """Check this machine: versions, devices, memory, disk, and what to install."""
    with _endings(debug):
        from postgrad.doctor import examine, healthy, render

        found = examine()
        typer.echo(render(found))
        if not healthy(found):
            raise typer.Exit(FAILED)


@app.command()
def schema(recipe: Recipe, debug: Debug = False) -> None:
    """Print the JSON schema of a recipe's --config files, for editors."""
    with _endings(debug):
        import json

        from postgrad.config import json_schema

        typer.echo(json.dumps(json_schema(_recipe(recipe).Config), indent=2, ensure_ascii=False))


@app.command()
def export(
    folder: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    to: Annotated[
        Literal["hf", "peft", "trl", "verl"],
        typer.Option(
            help="hf: the model; peft: an adapter, and the model with it merged; trl, verl: data and settings."
        ),
    ],
    stage: Annotated[
        Literal["best", "sft", "rl"], typer.Option(help="hf, peft: after which stage; best: the last.")
    ] = "best",
    debug: Debug = False,
) -> None:
    """Hand a run's model, or its data and settings, to another tool."""
    with _endings(debug):
        from postgrad import export as exports

        _open(folder)
        if to == "hf":
            exports.to_hugging_face(folder, stage, out)
        elif to == "peft":
            typer.echo(exports.to_peft(folder, stage, out))
        else:
            {"trl": exports.to_trl, "verl": exports.to_verl}[to](folder, out)
        typer.echo(str(out))


@app.command("recipes")
def list_recipes(debug: Debug = False) -> None:
    """List the recipes and their presets."""
    with _endings(debug):
        from postgrad.config import presets

        for name, line in recipes().items():
            typer.echo(f"{name} ({', '.join(presets(name))})\n  {line}")


DataFile = Annotated[Path, typer.Argument(metavar="FILE", help="A file or folder in any form that postgrad reads.")]


@data.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files or folders.")],
    model: Annotated[str | None, typer.Option(help="Count lengths in this model's tokens.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Count traces longer than this.")] = None,
    test: Annotated[Path | None, typer.Option(help="Problems that training must not contain.")] = None,
    debug: Debug = False,
) -> None:
    """Say what files hold and what is wrong with them. Exits 1 where something would stop or spoil a run."""
    with _endings(debug):
        from rich.console import Console

        from postgrad.data.check import check

        found = [check(file, model, max_length, test) for file in files]
        for one in found:
            Console().print(one)
        if not all(one.ok for one in found):
            raise typer.Exit(FAILED)


@data.command()
def preview(
    file: DataFile,
    model: Annotated[str, typer.Option(help="Folder or hub id of the tokenizer and chat template.")],
    row: Annotated[int, typer.Option(min=0, help="The first row to show.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    debug: Debug = False,
) -> None:
    """Show which tokens of a row are trained."""
    with _endings(debug):
        from rich.console import Console
        from transformers import AutoTokenizer

        from postgrad import chat
        from postgrad.data import sources
        from postgrad.data.preview import show

        examples = sources.examples(file)[row : row + count]
        if not examples:
            raise _UsageError(f"{file} has no row {row}")
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
        for example in examples:
            encoded = chat.encode(tokenizer, example)
            show(Console(), [tokenizer.decode([token]) for token in encoded.ids], encoded.trained)


@kernels.command()
def bench(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder of kernels' records.")],
    key: Annotated[Path | None, typer.Option(help="The key that signed them; else `key` beside them.")] = None,
    debug: Debug = False,
) -> None:
    """Score many kernels against each baseline: fast_p, geometric mean, median; as a table and a page."""
    with _endings(debug):
        from postgrad.pages import bench_page

        tables, page = bench_page(path, key)
        for rows in tables:
            _table(rows)
        typer.echo(f"report: {page}")


KernelOut = Annotated[Path | None, typer.Option(help="Write the signed record here; its key lies beside it as `key`.")]
Budget = Annotated[float, typer.Option("--budget", min=0.1, help="Seconds of timing.")]
KernelClock = Annotated[
    Literal["wall", "cpu"],
    typer.Option("--clock", help="cpu: for one thread on a busy machine, where the wall gives no number."),
]

KernelBackend = Annotated[
    Literal["torch", "cpp", "triton", "cuda"] | None,
    typer.Option("--backend", help="Of the candidate; without it .py is torch and .cpp is cpp."),
]
KernelGpu = Annotated[
    int | None,
    typer.Option("--gpu", min=0, help="Run both on this NVIDIA GPU; without it Triton is interpreted and not timed."),
]


@kernels.command("check")
def check_kernel(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="Python with Model or one function, and get_inputs.")],
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help="A .py file with ModelNew, or a .cpp file.")],
    budget: Budget = 10.0,
    clock: KernelClock = "wall",
    backend: KernelBackend = None,
    gpu: KernelGpu = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Measure twice whatever is not 1.")] = False,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Time it against torch.compile of the reference too.")
    ] = False,
    judge: Annotated[
        str | None, typer.Option(help="A model that reads the kernel for cheats: a folder, or an address with /v1.")
    ] = None,
    judge_name: Annotated[str | None, typer.Option(help="The judge's name at its address.")] = None,
    judge_key: Annotated[
        str | None, typer.Option(help="The environment variable that holds its address's key.")
    ] = None,
    out: KernelOut = None,
    debug: Debug = False,
) -> None:
    """Is a kernel right, and how much faster is it? Exits 1 where it is not accepted."""
    with _endings(debug):
        import json

        from postgrad import check as checks
        from postgrad.kernels import candidate as candidates
        from postgrad.kernels import signed
        from postgrad.kernels import task as tasks
        from postgrad.kernels.clock import any_gain, why_again
        from postgrad.kernels.verdict import ACCEPTED
        from postgrad.records import to_json

        again = any_gain if confirm else why_again
        settings = _kernel_settings(gpu, budget_s=budget, clock=clock, again=again)
        given = tasks.kernel_bench(task), candidates.from_file(candidate, backend)
        if out is not None and not out.parent.is_dir():
            raise _UsageError(f"--out {out}: there is no folder {out.parent}")
        if judge is None:
            found = checks.check(*given, settings, baselines=baselines)
        else:
            found, opinions = checks.check_with_judge(
                *given, settings, baselines=baselines, judge=judge, name=judge_name, key_variable=judge_key
            )
            for opinion in opinions:
                said = (
                    "gave no opinion that can be read"
                    if opinion is None
                    else "sees a cheat"
                    if opinion.cheats
                    else "sees no cheat"
                )
                _say(f"judge: {said}{f': {_printable(opinion.why)}' if opinion else ''}")
        verdict = found.verdict
        _show_verdict(verdict)
        for name, timing in found.timings.items():
            gain = "no number" if timing.speedup is None else f"{timing.speedup:.2f}x"
            typer.echo(f"  over {name}: {gain}")
        for name, why in found.left_out.items():
            typer.echo(f"  over {name}: not measured: {_printable(why)}")
        if out is not None:
            record = signed.sign(verdict, signed.run_key(out.with_name("key")))
            record |= {"baselines": {name: json.loads(to_json(one)) for name, one in found.timings.items()}}
            out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            _say(f"record: {out}")
        if verdict.status is not ACCEPTED:
            raise typer.Exit(FAILED)


def _kernel_settings(gpu: int | None, **settings: Any) -> kernel_evaluation.Settings:
    from postgrad.kernels import evaluate as evaluation

    return evaluation.Settings(**settings) if gpu is None else evaluation.on_gpu(gpu, **settings)


def _show_verdict(verdict: KernelVerdict) -> None:
    """Status and speed-up, each finding with its evidence, what was measured and by what."""
    from postgrad.kernels.clock import SECONDS

    gain = "" if verdict.speedup is None else f", {verdict.speedup:.2f}x"
    if verdict.interval is not None:
        gain += f" [{verdict.interval[0]:.3f}, {verdict.interval[1]:.3f}]"
    typer.echo(f"{verdict.task}: {verdict.status}{gain}")
    for finding in verdict.findings:
        where = f" ({finding.where})" if finding.where else ""
        typer.echo(f"  {finding.reason}{where}: {finding.reason.meaning}\n    {_printable(finding.evidence)}")
    timing = verdict.timing
    if timing is not None:
        typer.echo(
            f"  {len(timing.reference_s)} rounds in {timing.spent_s:.1f} s, ended by {timing.stopped}; "
            f"{SECONDS[timing.second]} in calls: reference {sum(timing.reference_cpu_s):.3f}, candidate {sum(timing.candidate_cpu_s):.3f}"
        )
    if note := verdict.labels.get("oracle"):
        typer.echo(f"  {_printable(note)}")


def _printable(text: str) -> str:
    """A candidate's words may hold anything: what moves a terminal's cursor does not reach it."""
    kept = "".join(one if one.isprintable() or one == "\n" else "?" for one in text)
    return kept.strip().replace("\n", "\n    ")


@kernels.command()
def optimize(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="Python with Model or one function, and get_inputs.")],
    model: Annotated[str, typer.Option("--model", help="A model folder, or an OpenAI-compatible address with /v1.")],
    out: Annotated[Path, typer.Option("--out", help="The search's folder; one that is there is continued.")],
    budget: Annotated[int, typer.Option("--budget", min=1, help="Verdicts.")] = 50,
    name: Annotated[str | None, typer.Option(help="The model's name at the address.")] = None,
    key_variable: Annotated[
        str | None, typer.Option(help="The environment variable that holds the address's key.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="Which codes a prompt shows: buckets, islands, proportional, uniform or nothing.")
    ] = "buckets",
    seconds: Annotated[float, typer.Option(min=0.1, help="Of timing, for each verdict.")] = 5.0,
    clock: KernelClock = "wall",
    temperature: Annotated[float, typer.Option(min=0.0)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one answer.")] = 4096,
    seed: Annotated[int, typer.Option()] = 0,
    debug: Debug = False,
) -> None:
    """Search for a faster kernel without training; what is best is measured twice and written as a drop-in file."""
    with _endings(debug):
        from postgrad import optimize as optimization
        from postgrad.pages import kernel_page

        found = optimization.search(
            task,
            model,
            out,
            name=name,
            key_variable=key_variable,
            budget=budget,
            seconds=seconds,
            strategy=strategy,
            clock=clock,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
        )
        typer.echo(f"{found.evaluations} verdicts on {found.answers} answers in {found.rounds} rounds; {found.ended}")
        for alarm in found.alarms:
            typer.echo(f"alarm: {alarm}")
        if found.best is None:
            typer.echo("nothing faster than the reference was verified")
        else:
            typer.echo(f"best: {found.best.speedup:.2f}x in {out / (found.file or '')}")
        _say(f"report: {kernel_page(out)}")


@kernels.command()
def audit(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of kernels, or CUDA-L1's JSON lines.")],
    reference: Annotated[
        Path | None, typer.Option("--kernelbench", help="A checkout of KernelBench: which references are its own?")
    ] = None,
    run_them: Annotated[bool, typer.Option("--run", help="Evaluate what can run here.")] = False,
    gpu: KernelGpu = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a signed verdict of each kernel into this folder; one there is continued."),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.0, help="With --out: begin no kernel after these.")] = 10.0,
    budget: Budget = 2.0,
    clock: KernelClock = "wall",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first.")] = None,
    debug: Debug = False,
) -> None:
    """Read many kernels: what is usable, what their texts give away, and a verdict on each."""
    with _endings(debug):
        from postgrad.kernels import audit as audits
        from postgrad.kernels import dossier as dossiers
        from postgrad.kernels import evaluate as evaluation
        from postgrad.kernels import released, task

        rows = audits.gather(path)[:limit]
        if path.is_file():
            read = list(released.read(path))[:limit]
            told = released.count(read)
            typer.echo(
                f"{told.rows} rows: {told.usable} usable, {told.without_code} without code "
                f"({told.claims_without_code} of them with a score), {told.unusable} whose code cannot be used"
            )
            if reference is not None:
                foreign = released.foreign_references(read, task.kernel_bench_folder(reference))
                names = ", ".join(f"{level}-{number}" for level, number in foreign[:10])
                typer.echo(
                    f"{len(read) - len(foreign)} of {len(read)} references are those of {reference}"
                    + (f"; not: {names}" if foreign else "")
                )
        for row in rows:
            if row.trouble and row.trouble != "no code":
                typer.echo(f"{row.name}: {_printable(row.trouble)}")
        _table(audits.counts(rows))
        able = [row for row in rows if audits.runs_here(row, gpu=gpu is not None)]
        where = "without a GPU" if gpu is None else f"on GPU {gpu}"
        typer.echo(f"{len(able)} of {len(rows)} can run {where}" + ("" if run_them else "; --run evaluates them"))
        settings = _kernel_settings(gpu, budget_s=budget, clock=clock)
        if out is not None:
            dossier = dossiers.Dossier(out, path.stem)
            owed = dossier.go_on(rows, 60 * minutes, settings if run_them else None)
            _table(audits.statuses(dossier.records))
            _table(audits.gains(dossier.records, path.stem))
            typer.echo(f"{len(dossier.records)} verdicts in {dossier.path}")
            if owed:
                typer.echo(f"{owed} kernels are owed one: give the same command again")
        elif run_them:
            for row in able:
                assert row.task is not None
                assert row.candidate is not None
                _show_verdict(evaluation.evaluate(row.task, row.candidate, settings))
