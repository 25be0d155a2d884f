"""A run's folder -> report.html: facts to a plain view model, the view model through a template, never above 2 MB.

    write(Path("runs/2026-11-23-math"))  ->  runs/2026-11-23-math/report.html

The page asks for nothing outside itself (a content policy forbids it) and is whole with scripts off. Text from a model
reaches it only as text nodes and attribute values, through the template's escaping.

    folder          a run's files, whatever is in them -> facts
    measured        headline, claims, models, comparisons
    evaluation      accuracy against tokens, budgets, lengths, labels, reasons
    training        curves, reward by part
    samples         answers side by side, rollouts
    written         kernels that its models wrote
    about           stages, time, notices, reward order, machine
    template        escaping, size, the file
    view, svg, text what these are made of
"""

from __future__ import annotations

import shlex
from pathlib import Path

from postgrad.report.about import environment, flatten, notices, reward_order, stage_bars, stage_rows
from postgrad.report.evaluation import budgets, frontier, label_tables, lengths, reason_table
from postgrad.report.folder import Folder, mapping, read, string
from postgrad.report.measured import claims, comparison_table, headline, model_table, models_of
from postgrad.report.samples import rollouts, samples
from postgrad.report.template import put, rendered, smallest
from postgrad.report.text import visible
from postgrad.report.training import reward_parts, training
from postgrad.report.view import Limits, name_of
from postgrad.report.written import codes, tables

LEVELS = (Limits(24, 3000, 60), Limits(12, 1500, 40), Limits(6, 800, 25), Limits(3, 300, 12), Limits(1, 120, 6))


def render(folder: Folder, limits: Limits) -> str:
    models = models_of(folder)
    recipe = string(folder.summary.get("recipe") or folder.manifest.get("recipe"))
    preset = string(folder.summary.get("preset") or folder.manifest.get("preset"))
    seed = folder.summary.get("seed", folder.manifest.get("seed"))
    all_notices = notices(folder)
    absent = [name_of(m.key) for m in models if m.tokens is None or m.accuracy is None]
    rows, packages = environment(folder)
    hardware = mapping(folder.manifest.get("hardware"))
    commit = string(folder.manifest.get("commit"))
    facts = [
        visible(string(folder.manifest.get("created")), 40)[:16].replace("T", " "),
        f"commit {visible(commit, 60)[:10]}{' + changes' if commit.endswith('+') else ''}" if commit else "",
        visible(string(hardware.get("gpu") or hardware.get("cpu")), 80),
        f"seed {visible(string(seed), 20)}" if seed is not None else "",
    ]
    data = flatten(mapping(folder.summary.get("data")) or mapping(mapping(folder.stages.get("data")).get("result")))
    config = visible(folder.config, 40_000 if limits.problems > 3 else 8_000)
    return rendered(
        "page.html.jinja",
        title=visible(" · ".join(t for t in (recipe, preset) if t) or folder.path.resolve().name, 120),
        headline=headline(folder, models),
        facts=[f for f in facts if f],
        stages=stage_rows(folder),
        notices=all_notices[:24],
        notices_more=max(0, len(all_notices) - 24),
        claims=claims(folder),
        models=model_table(models),
        kernel_tables=tables(folder, limits),
        kernel_codes=codes(folder, limits),
        comparisons=comparison_table(folder),
        frontier=frontier(models, f" No point for {', '.join(absent)}." if absent else ""),
        figures=[*budgets(folder, limits), *([f] if (f := lengths(folder)) else [])],
        labels=label_tables(folder, limits),
        reasons=reason_table(folder.evals),
        samples=samples(folder, limits),
        samples_total=folder.samples_total,
        training=training(folder, limits),
        parts=reward_parts(folder, limits),
        order=reward_order(folder),
        rollouts=rollouts(folder, limits),
        rollout_steps=folder.rollout_steps,
        data=data[:100],
        data_more=max(0, len(data) - 100),
        config=config,
        environment=rows,
        packages=packages,
        time=stage_bars(folder),
        commit=visible(commit.removesuffix("+"), 60),
        changed=commit.endswith("+"),
        command=visible(folder.command, 2000),
        resume=f"postgrad resume {shlex.quote(visible(folder.path.resolve().name, 120))}",
    )


def write(run_folder: Path) -> Path:
    """Write run_folder/report.html, whole or not at all, and return its path. Any subset of a run's files will do."""
    folder = read(run_folder, max_problems=LEVELS[0].problems)
    html = smallest(lambda limits: render(folder, limits), LEVELS)
    return put(run_folder / "report.html", html)
