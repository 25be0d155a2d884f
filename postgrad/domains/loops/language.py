"""The domain's own tokenizers, one for each language: a token for each word and common fragment, bytes for all else, so that any text
goes round exactly.

Fragments match leftmost first and the longest of those, so one text always has the same tokens. A C++ kernel is 30 to 180 of them, half of all kernels less than 70.
Recorded runs hold ids: the fragments of a language keep their order, and what is new comes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from postgrad.domains.loops import triton
from postgrad.domains.loops.prompts import ANALYSIS, CONTRASTIVE, DESIGN, IMPLEMENTATION, PLAIN
from postgrad.domains.loops.spec import FUNCTIONS, INFINITE, SIGNATURE, SIMD, TECHNIQUES, VECTOR
from postgrad.domains.loops.triton import language as triton_language

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|pad|>")
ROLES = ("user\n", "assistant\n", "system\n")

PLACES = {0: "x", 1: "ybp", 2: "bcp", 3: "cdp", 4: "d"}
"""What the inputs at each place are called."""
LINES = (
    FUNCTIONS,
    VECTOR.format("expf"),
    VECTOR.format("tanhf"),
    SIGNATURE,
    SIMD + "\n",
    SIMD + " reduction(",
    *(
        f"const float* {never}{name} = in[{place}];\n"
        for never in ("", "__restrict ")
        for place, names in PLACES.items()
        for name in names
    ),
    "float* o = out;\n",
    "float* __restrict o = out;\n",
    "long N = n[0];\n",
    "long R = n[0], C = n[1];\n",
    "long M = n[0], N = n[1], K = n[2];\n",
)
LOOPS = tuple(
    f"for (long {index} = 0; {index} < {end}; {index}++){then}"
    for index, ends in {
        "i": ("N", "M", "e"),
        "r": ("R",),
        "j": ("C", "N"),
        "k": ("K", "32", "3", "5", "7"),
        "q": ("16",),
    }.items()
    for end in ends
    for then in (" ", " {\n", "\n")
)
CELLS = (
    *(f"{array}[{at}]" for array in "xo" for at in ("i", "r * C + j", "i * N + j")),
    *(f"{array}[{at}]" for array in "bcd" for at in ("i", "j", "j + k", "u + i")),
    *("o[r]", "o[j]", "x[i * K + k]", "x[k * M + i]", "y[k * N + j]", "y[j * K + k]", "t[k * N + j]", "t[k]", "t[j - k]"),
    *("p[0]", "t[", "w[", "x[", "y[", "o[", "w[k] * ", "x[q]", "t[q]", "t[i + k]", "x[i + k - ", "(u + i - "),
    *("i + k - ", "r * C + j", "(r - 1) * C + j", "(r + 1) * C + j", "x[r * C + j - 1]", "x[r * C + j + 1]", "x[(r - 1) * C + j]"),
    *("x[(r + 1) * C + j]", "i * K + ", "j * K + ", "x[i * K + (k + ", "x[(k + ", "y[(k + ", "t[(k + ", ")]", ") * M + i]", ") * N + j]"),
)  # fmt: skip
WORDS = (
    *("float v = ", "float s = ", "float m = ", "float k = ", "float ip = ", "float t[", "float ", "long ", "const ", "auto "),
    *("v = v", "v = ", "s = s", "s = ", "s += ", "m += ", "v += ", " = v;\n", "v;\n", "s;\n", f"-{INFINITE}"),
    *(INFINITE, "float* t = new float[", "delete[] t;\n", "]();\n", "for (long ", "for (; ", "if (", "fabsf(", "sqrtf(", "expf(", "tanhf(", "[&](long i) "),
    *("v * v", " : v * ", " : 0;\n", "(1 + expf(-v));\n", "tanhf(v);\n", "sqrtf(fabsf(v) + ", "fabsf(v);\n"),
    *("m = v > m ? v : m;\n", " > 0 ? ", " < 0 ? ", " >= 0 && ", " ? ", " : ", " = 0; ", " = 0;\n", " = ", " += ", " < ", " > "),
    *(" <= ", " && ", " + ", " - ", " * ", " / ", " * ip;\n", " - 1"),
    *("{\n", "}\n", "};\n", ";\n", ")\n", "++) ", "++)", ") ", "; ", "] = ", "];\n", ");\n", ", ", "1024", "64", "32", "16"),
)  # fmt: skip
NUMBERS = (
    *(f"{tenths // 10}.{tenths % 10}f" for tenths in range(2, 30)),
    *(f"{digit}." for digit in range(10)),
    *(f"{digit}f" for digit in range(10)),
)
"""Every constant is a token of its own, which is copied at once; of two, a model of three layers got the first wrong and the second right."""


def _protocol(fence: str, techniques: Iterable[str]) -> tuple[str, ...]:
    return (
        *(ANALYSIS, DESIGN, IMPLEMENTATION, fence, "```", "```\n", PLAIN, CONTRASTIVE, "Reference:\n", "Code ", " ran at ", "x:\n"),
        *(" is faster. ", "It uses: ", "It lacks: ", "Use: ", "nothing", ". ", ".\n"),
        *(f"{separator}{tag}" for separator in ("", ", ") for tag in techniques),
    )  # fmt: skip


FRAGMENTS = tuple(dict.fromkeys((*ROLES, *LINES, *LOOPS, *CELLS, *WORDS, *NUMBERS, *_protocol("```cpp\n", TECHNIQUES))))
TRITON_FRAGMENTS = tuple(
    dict.fromkeys((*ROLES, *triton_language.FRAGMENTS, *_protocol("```python\n", triton.TECHNIQUES)))
)


def tokenizer() -> Any:
    """A byte-level tokenizer with one token for each fragment of C++; encodes any text, saves as a Hugging Face folder."""
    return _made(FRAGMENTS)


def triton_tokenizer() -> Any:
    """The same with the fragments of Triton texts, PyTorch references among them."""
    return _made(TRITON_FRAGMENTS)


def _made(fragments: Sequence[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_tokens([AddedToken(fragment, normalized=False) for fragment in fragments if len(fragment) > 1])
    core.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
