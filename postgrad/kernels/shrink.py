"""A task of KernelBench's form with two rows in its batch, so that its admission can be asked on a small machine.

    batch_size = 128   ->   batch_size = 2

Only the batch: what one row's answer is, its size beside the tolerance, whether it depends on the input, hangs on the other sizes, and they
stay. Where rows are not apart (a normalisation over the batch while training) the small task is another one, and its findings are hints.
"""

from __future__ import annotations

import ast
from dataclasses import replace

from postgrad.kernels.task import Task

BATCH = ("batch_size", "batch")
ROWS = 2


def with_few_rows(task: Task) -> Task:
    """The same task where the text names no batch, or a small one."""
    lines = task.source.splitlines(keepends=True)
    for node in ast.parse(task.source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=int(rows)) as value):
                if name in BATCH and rows > ROWS and value.lineno == value.end_lineno:
                    line = lines[value.lineno - 1].encode()  # columns are of UTF-8
                    made = line[: value.col_offset] + str(ROWS).encode() + line[value.end_col_offset :]
                    lines[value.lineno - 1] = made.decode()
            case _:
                pass
    return replace(task, source="".join(lines))
