"""Attention over pages: the plan covers every page once, and the kernels (in Triton's interpreter) give what dense attention gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgrad.attention.paged import NOWHERE, plan


@settings(max_examples=60)
@given(
    groups=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5), st.integers(1, 30)), min_size=1, max_size=6),
    heads=st.sampled_from([1, 4, 8, 1000]),
    group=st.sampled_from([1, 2, 7]),
)
def test_every_row_reads_each_of_its_pages_once(groups: list[tuple[int, int, int]], heads: int, group: int) -> None:
    tables: list[list[int]] = []
    shared: list[int] = []
    page = 1
    for count, common, own in groups:
        prefix = list(range(page, page + common))
        page += common
        for _ in range(count):
            tables.append([*prefix, *range(page, page + own)])
            shared.append(common if count > 1 else 0)
            page += own
    made = plan(tables, shared, heads=heads, group=group, rows=len(tables) + 3, width=max(map(len, tables)) + 1)
    for row, pages in enumerate(tables):
        first, count, first_shared, count_shared, place = made.parts_B5[row]
        seen: list[int] = []
        for item in range(first, first + count):
            of, rows, start, stop = made.own_I4[item]
            assert (of, rows) == (row, 1)
            seen += [int(x) for x in made.tables_BM[of, start:stop]]
        for item in range(first_shared, first_shared + count_shared):
            head, rows, start, stop = made.shared_J4[item]
            assert head + place == row
            assert place < rows
            seen += [int(x) for x in made.tables_BM[head, start:stop]]
        assert sorted(seen) == sorted(pages)
    assert not made.parts_B5[len(tables) :].any()
    assert (made.tables_BM[len(tables) :] == NOWHERE).all()


CHECK = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import sys
import numpy as np
import torch
from postgrad.attention import paged, paged_triton

torch.manual_seed(0)
heads, group, width = map(int, sys.argv[1:4])
P = paged.PAGE
lengths = [5, 70, 64, 200, 130, 131, 190, 1]       # tokens in the cache, the newest not
prefix = {3: 2, 4: 2, 5: 2, 6: 2}                    # rows that share two pages
pool = torch.randn(2, 1, 40, heads, P, width)
free = iter(range(1, 40))
common = [next(free), next(free)]
tables = [[*(common if row in prefix else []), *(next(free) for _ in range(-(-(n + 1) // P) - prefix.get(row, 0)))] for row, n in enumerate(lengths)]
rows = len(lengths) + 2
made = paged.plan(tables, [prefix.get(row, 0) for row in range(len(lengths))], heads=heads, group=group, rows=rows, width=6).on(torch.device("cpu"))
positions = torch.tensor([*lengths, 0, 0])
q = torch.randn(1, heads * group, rows, width)
k, v = (torch.randn(1, rows, heads, width).transpose(1, 2) for _ in range(2))
theirs = pool.clone()
wanted = paged.PagedDecode(theirs, made, positions, sharing=True, longest=256)(0, q, k, v, width**-0.5)[0].transpose(0, 1)
paged_triton.write(pool[0, 0], pool[1, 0], made.tables_BM, positions, k[0], v[0])
assert torch.equal(pool[:, :, 1:], theirs[:, :, 1:])
got = paged_triton.attend(q[0], pool[0, 0], pool[1, 0], made, positions, width**-0.5, sharing=True)
real = slice(0, len(lengths))
assert not got[len(lengths):].any(), "rows that fill up the batch"
print(float((got - wanted)[real].abs().max()))
"""


@pytest.mark.parametrize(("heads", "group", "width"), [(2, 2, 16), (1, 7, 64), (2, 1, 24)])
def test_kernels_give_what_dense_attention_gives(heads: int, group: int, width: int) -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(heads), str(group), str(width)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


def test_items_are_cut_so_that_no_program_waits_for_a_long_one() -> None:
    tables = [[1], list(range(2, 1002))]
    made = plan(tables, [0, 0], heads=8, group=2, rows=2, width=1000)
    sizes = made.own_I4[:, 3] - made.own_I4[:, 2]
    assert sizes.sum() == 1001
    assert sizes.max() <= 8
    assert np.count_nonzero(sizes) > 120
