"""One page from a template and a view model: escaped, silent towards the network, small, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from postgrad.report.view import Limits

MAX_BYTES = 2_000_000


def _text(name: str) -> str:
    return resources.files("postgrad.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _text("page.js")
    made.globals |= {
        "style": Markup(_text("style.css")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    # Which kind of a block this is, for templates that are given several.
    made.filters["kind"] = lambda block: type(block).__name__
    return made


def rendered(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def smallest(page: Callable[[Limits], str], levels: Sequence[Limits]) -> bytes:
    """The page at the first of the levels, largest first, that keeps it below MAX_BYTES."""
    for limits in levels:
        html = page(limits).encode("utf-8", errors="replace")
        if len(html) <= MAX_BYTES:
            return html
    raise AssertionError(f"the smallest page has {len(html):,} bytes, more than {MAX_BYTES:,}: a text is not limited")


def put(target: Path, html: bytes) -> Path:
    """Write `target`, whole or not at all, and return it."""
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("wb") as file:
        file.write(html)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    return target
