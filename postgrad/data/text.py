"""When two problems are the same text: a normal form that forgets case, spacing and prose punctuation only.

    normal("What is  3*4 + 7?")   "what is 3 * 4 + 7"
    masked("What is  3*4 + 7?")   "what is <n> * <n> + <n>"

Operators, brackets, signs, decimal points and digits stay: "3+4" is not "3-4", "2.5" is not "25", "1 2" is not "12",
"5!" is not "5". Forgotten are marks that only punctuate, LaTeX's dollars and backslashes, and commas that group
digits. Scripts written without spaces give one token for each character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from postgrad.records import Message

SAME = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "’": "'", "‘": "'", "′": "'"})
"""Ways to type one sign."""
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
TOKEN = re.compile(
    rf"""
      (?<![(\[{{,])\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?(?!,?\d)  # 1,234.5 but not the pair (100,200)
    | \d*\.\d+ | \d+                                         # 2.5  .5  25
    | [{CJK}] | \b[a-z]['!]+ | [^\W\d_{CJK}]+               # words  n!  f'
    | (?<=[\d)\]])!                                          # 5!
    | (?<=\d):(?=\d)                                         # 3:4
    | [^\w\s.,;:?!"'`$\\…—«»“”„‚¿¡。，、；：？！]            # every other sign
    """,
    re.VERBOSE,
)
NUMBER = re.compile(r"\d*\.?\d+")
LATEX_BRACKETS = re.compile(r"\\[()\[\]]")


def normal(text: str) -> str:
    """Equal for texts that differ in case, spacing and prose punctuation only."""
    return " ".join(tokens(text))


def masked(text: str) -> str:
    """The normal form with every number as <n>: equal for problems of one template."""
    return " ".join("<n>" if NUMBER.fullmatch(token) else token for token in tokens(text))


def tokens(text: str) -> list[str]:
    """Words, numbers and signs of the normal form."""
    text = unicodedata.normalize("NFC", text.casefold().translate(SAME))
    text = re.sub(r"(?<=\d)\s*:\s*(?=\d)", ":", re.sub(r"(?<=[\d)\]])\s+!", "!", text))
    return [_token(token) for token in TOKEN.findall(LATEX_BRACKETS.sub(" ", text))]


def _token(token: str) -> str:
    if token[0] == ".":
        return "0" + token
    return token.replace(",", "") if token[0].isdigit() else token


def prompt_text(prompt: Sequence[Message]) -> str:
    """What makes a problem that problem: the user's words, without a system prompt that all of them share."""
    return "\n".join(message.content for message in prompt if message.role == "user")
