"""C++ and CUDA text as tokens: comments gone, strings kept whole, so that no rule ever looks inside either.

A tokenizer, not a parser: names, numbers, strings, characters, punctuation and preprocessor lines, each with its line.
Lines joined by a backslash are joined first; raw strings are read by their delimiter. Text that no compiler would read
(an open comment or string) gives its rest as one token of kind "broken", so that nothing is hidden behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "number", "string", "char", "punct", "directive", "broken"]


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    """As written; of a directive the whole line without its comments."""
    line: int
    """Counted from 1."""


_PIECES = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>//[^\n]*|/\*.*?\*/)
  | (?P<raw>(?:u8|[uUL])?R"(?P<mark>[^()\\\s]{0,16})\(.*?\)(?P=mark)")
  | (?P<string>(?:u8|[uUL])?"(?:[^"\\\n]|\\.)*")
  | (?P<char>(?:u8|[uUL])?'(?:[^'\\\n]|\\.)+')
  | (?P<number>\.?[0-9](?:[eEpP][+-]|'(?=[0-9a-fA-F])|[0-9a-zA-Z_.])*)
  | (?P<name>[^\W\d]\w*)
  | (?P<punct><<<|>>>|::|->\*?|\+\+|--|<<=|>>=|<=>|<<|[-+*/%&|^=!<>]=|&&|\|\||\#\#|[{}()\[\];,<>+\-*/%&|^!~=?:.\#@$`\\])
  | (?P<broken>.+)
    """,
    re.VERBOSE | re.DOTALL,
)
_DIRECTIVE = re.compile(r"[ \t]*(?:\#|%:|\?\?=)[^\n]*")


def tokens(code: str) -> list[Token]:
    """All tokens in order. A directive's line is one token; what it defines is tokenised by who asks (`body`)."""
    # A joined line's later tokens are reported on its first line: good enough to find them.
    text = re.sub(r"\\\r?\n", "", code.replace("\r\n", "\n"))
    found: list[Token] = []
    at, line, fresh = 0, 1, True
    while at < len(text):
        directive = _DIRECTIVE.match(text, at) if fresh else None
        if directive is not None and directive.group().strip():
            end = _end_of_directive(text, at)
            found.append(Token("directive", without_comments(text[at:end]).strip(), line))
            line += text.count("\n", at, end)
            at = end
            continue
        piece = _PIECES.match(text, at)
        assert piece is not None, "the last alternative takes anything"
        kind, value = piece.lastgroup, piece.group()
        if piece["raw"] is not None:
            kind = "string"
        if kind not in ("space", "comment"):
            found.append(Token(kind, value, line))  # type: ignore[arg-type]
        fresh = "\n" in value if kind == "space" else (fresh and kind == "comment")
        line += value.count("\n")
        at = piece.end()
    return found


def _end_of_directive(text: str, at: int) -> int:
    """A directive ends with its line, except where a block comment goes on past it."""
    while True:
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        opened = text.find("/*", at, end)
        if opened < 0:
            return end
        closed = text.find("*/", opened + 2)
        if closed < 0:
            return len(text)
        at = closed + 2


def without_comments(code: str) -> str:
    """The same text with every comment replaced by a space; strings stay."""
    return _PIECES.sub(lambda piece: " " if piece["comment"] is not None else piece.group(), code)


def comments(code: str) -> list[Token]:
    """Every comment with its line."""
    found = (piece for piece in _PIECES.finditer(code) if piece["comment"] is not None)
    return [Token("string", piece.group(), code.count("\n", 0, piece.start()) + 1) for piece in found]


def body(directive: Token) -> list[Token]:
    """Tokens after the `#` of a directive: define, the macro's name, its text."""
    return [Token(one.kind, one.text, directive.line) for one in tokens(directive.text.lstrip(" \t#%:?="))]


def bare(code: str) -> str:
    """The code as a judge may see it: no comments, strings emptied (include lines stay), one token apart from the next."""
    lines: dict[int, list[str]] = {}
    for token in tokens(code):
        hidden = {"string": '""', "char": "''", "broken": ""}.get(token.kind, token.text)
        lines.setdefault(token.line, []).append(hidden)
    return "\n".join(" ".join(row) for _, row in sorted(lines.items()))


@dataclass(frozen=True, slots=True)
class Text:
    """A C++ or CUDA text, as rules see it."""

    tokens: tuple[Token, ...]
    comments: tuple[Token, ...]
    """Of kind "string": for the one rule that reads what is said to people."""
    backend: str
    precision: str
    """The task's declared precision: float32, bfloat16, float16."""

    @classmethod
    def of(cls, code: str, backend: str, precision: str) -> Text:
        return cls(tuple(tokens(code)), tuple(comments(code)), backend, precision)
