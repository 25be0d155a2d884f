r"""How the clinic speaks: names, questions, reasoning, and a tokenizer with one token for each.

    Findings (1) fever (2) rash; negative bex. Diagnosis?      <think>
    A. dremia                                                  A. dremia; negative bex no (1) fever2 (2) rash1=3
    B. gorvia                                                  B. gorvia; negative bex ok (1) fever0 (2) rash2=2
    C. arvosis                                                 ...
    D. hulosis                                                 So B
                                                               </think>
                                                               \boxed{B}

Every disease, test and drug is invented, so that nothing here can be taken for medicine or known from elsewhere. Names
do not depend on the world's seed: one tokenizer serves all worlds, and a model can be carried from one to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from postgrad.options import LETTERS

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DISEASES = ("arvosis", "belitis", "corvemia", "dremia", "eltosis", "fenitis", "gorvia", "hulosis")
FINDINGS = ("fever", "rash", "cough", "pain", "chills", "itch", "nausea", "tremor")
TESTS = ("arb", "bex", "cil", "dov", "ept", "fro")
DRUGS = ("abrol", "bentin", "cafene", "dozol", "evirin", "fastat", "golide", "hexine")
CONDITIONS = ("renal", "hepatic", "pregnant", "asthmatic", "ulcer", "frail")
SCORES = ("Arca", "Bolt", "Cura", "Dent")
FACTORS = ("age", "smoking", "stroke", "lesion", "edema", "bleed", "shock", "sepsis", "fall", "clot")
BANDS = ("low", "moderate", "high", "grave")
CODES = tuple(f"K{number:02}" for number in range(48))
ORGANS = ("heart", "lung", "liver", "kidney", "brain", "skin", "bone", "blood")

NAMES = (*DISEASES, *FINDINGS, *TESTS, *DRUGS, *CONDITIONS, *SCORES, *FACTORS, *BANDS, *CODES, *ORGANS)
PHRASES = (
    "Findings", "; negative", ". Diagnosis?", "Treat", " with", ". Drug?", "Chances", ". Next test?", "Score", ". Risk?",
    "Agent", ". Organ?", " ok", " no", "\nSo",
)  # fmt: skip
LAYOUT = (
    "<think>",
    "\n</think>\n",
    "</think>",
    "\\boxed{",
    *(f"\n{letter}." for letter in LETTERS[:4]),
    *(f" {letter}" for letter in LETTERS[:4]),
    *(f" ({number})" for number in range(1, 6)),
    *("user", "assistant", "system"),
)


def numbered(names: Sequence[str]) -> str:
    """(1) fever (2) rash: a worked solution takes each up under its number, so that a small model finds it again."""
    return "".join(f" ({number}) {name}" for number, name in enumerate(names, start=1))


def lettered(lines: Sequence[str]) -> str:
    return "".join(f"\n{letter}. {line}" for letter, line in zip(LETTERS, lines, strict=False))


def trace(solution: str, letter: str) -> str:
    """The paper's form of an answer: steps inside <think>, then one answer."""
    return f"<think>{solution}\nSo {letter}\n</think>\n{answer(letter)}"


def answer(letter: str) -> str:
    return f"\\boxed{{{letter}}}"


def tokenizer() -> Any:
    """A byte-level tokenizer with one token for each name and phrase; encodes any text, saves as a Hugging Face folder."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    fields = (*LAYOUT, *PHRASES, *(f" {name}" for name in NAMES))
    core.add_tokens([AddedToken(field, normalized=False) for field in fields])
    core.add_special_tokens(
        [AddedToken(token, normalized=False) for token in ("<|im_start|>", "<|im_end|>", "<|pad|>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
