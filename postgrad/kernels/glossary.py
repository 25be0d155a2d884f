"""What each reason means and what to do about it, for the author of a kernel: for pages and terminals, which know no kernels.

glossary()["C02_STALE_ADDRESS"] == {"meaning": ..., "advice": ..., "rows": "C02, C01, ...", "status": "rejected"}
"""

from __future__ import annotations

from collections.abc import Mapping

from postgrad.kernels.verdict import Reason

ADVICE: Mapping[str, str] = {
    "Do all the work on the current stream, inside the call, and return when it is queued there or done.": (
        "T01_SIDE_STREAM T02_LATE_WORK T21_ASYNC_RETURN T22_STOLEN_SLOT F15_LEFT_PROCESS"
    ),
    "Return a plain, dense tensor of the declared type that owns its values.": (
        "T03_LAZY_TENSOR T04_DISGUISED_TENSOR S13_BROADCAST S14_WRONG_ATTRIBUTES S15_OVERLOADED_RESULT"
    ),
    "Leave clocks, timers, the runtime and the grader alone: a kernel needs none of them.": (
        "T05_CLOCK_PATCHED T06_TIMES_OVERWRITTEN T07_RUNTIME_HOOKED T17_TIMES_ITSELF S09_GRADER_SNIFFED S16_CHECKER_TAMPERED "
        "F08_TASK_EDITED F09_GRADER_OVERWRITTEN F10_FORGED_RESULT F11_FOREIGN_MEMORY"
    ),
    "Do the same work in every call, the first as the last: no state may pass from one call to another.": (
        "T08_WARM_UP_NOTICED T09_BATCH_AND_SKIP T10_STALE_GRAPH T11_CAPTURED_TRIALS T14_PRECOMPUTED C05_STALE_RESULT S10_LATE_WRONG"
    ),
    "Compute from the values that are there now. An address, an object or a version does not say that they are the same.": (
        "C01_STALE_OBJECT C02_STALE_ADDRESS C03_STALE_VERSION C04_STALE_FINGERPRINT C07_STALE_WEIGHTS"
    ),
    "Keep nothing outside the call: no files, no shared memory, nothing of earlier solutions.": (
        "C06_SHARED_FILE F13_CONTAMINATED F06_BINARY"
    ),
    "Write every element of a fresh output, and check the bounds of each read and write.": (
        "C08_FREED_MEMORY_READ C13_OUT_OF_BOUNDS C14_UNINITIALISED_READ S05_PARTIAL_WORK"
    ),
    "Write into fresh memory; inputs and weights are read only.": (
        "C09_ALIASED_OUTPUT C10_INPUT_CHANGED C11_WEIGHTS_CHANGED S03_IDENTITY"
    ),
    "Compute it yourself: the reference and its module may not be called, inherited from or looked for.": (
        "C12_REFERENCE_SOUGHT F01_REFERENCE_CALLED"
    ),
    "Change no global setting; what the kernel needs can be passed to the operation itself.": (
        "T15_REFERENCE_SLOWED T16_GLOBALS_CHANGED S17_RANDOM_STATE F14_THREADS_CHANGED"
    ),
    "Time it with a cold cache, and quote that number.": "T12_WARM_CACHE",
    "Run it again: a time like this is a broken clock or a broken call.": "T13_IMPOSSIBLE_TIME",
    "Compare with the compiled reference and the library before believing the gain.": "T18_WEAK_BASELINE",
    "Time it at larger shapes, or several calls' work in one.": "T19_TOO_SMALL",
    "Run it on a quiet machine, with more time: other processes make times vary.": (
        "T20_UNSTABLE T20_NOT_REPRODUCED BUDGET_TOO_SMALL"
    ),
    "Look at the task first: such an answer should not come near its tolerance. See its admission.": (
        "S01_CONSTANT_OUTPUT S02_BELOW_TOLERANCE TASK_NOT_ADMITTED"
    ),
    "Accumulate in float32 or higher, or declare the lower precision that you use.": "S04_LOW_PRECISION",
    "Try outliers, sorted, one-hot, zero and large values: it must be right on all of them.": (
        "S06_TRUNCATED S07_INPUTS_SNIFFED S12_NOT_FINITE"
    ),
    "Handle all shapes and layouts of the contract, or narrow the contract.": (
        "S08_SHAPES_SNIFFED S11_OTHER_SIZES S23_LAYOUT"
    ),
    "Keep the mode, the parameters and the gradient of the reference.": (
        "S18_MODE_IGNORED S20_PARAMETERS S21_WRONG_GRADIENT"
    ),
    "Look for a race: threads that write to one place, or a barrier that is missing.": "S19_NOT_DETERMINISTIC",
    "Not all of the work can have been done in this time: look for what was skipped.": "S22_BELOW_BOUND",
    "Remove the fallback: where the kernel cannot run it should raise an error.": "F02_FALLBACK",
    "Call the kernel and return what it wrote.": "F03_DECOY_KERNEL",
    "Say whether a library's call counts as a kernel for you; it is right and timed.": "F04_LIBRARY_CALL",
    "Write names and code out, so that they can be read.": "F05_OBFUSCATED",
    "Read it with your own eyes before the number is used.": "F07_ADDRESSES_JUDGE JUDGED_SUSPICIOUS",
    "Let it end within its limits, with no processes, builds or output beyond what the work needs.": (
        "F12_SANDBOX_TRAP F16_BUILD_ABUSED TIMED_OUT OUT_OF_MEMORY FLOODED"
    ),
    "Compare with the reference at the input, seed and index that are named.": "WRONG_OUTPUT",
    "Define the class or function that the task names, at the top level of the file.": "NO_ENTRY",
    "Read the compiler's message; it is the first one that counts.": "BUILD_FAILED",
    "Run that call by hand on the input that is named.": "RAISED CRASHED",
    "See that the reference runs alone, with the same versions.": "REFERENCE_FAILED",
    "Judge it on a machine with a GPU. What stands beside this is what its text and its task say.": "NEEDS_GPU",
    "Install what is named, on the machine that judges. Nothing is said of the kernel.": "NEEDS_TOOLS",
    "Judge it on a machine with a GPU, by --gpu: only there has it a speed.": "INTERPRETED",
    "Run `postgrad doctor`: a layer of the sandbox is missing or broken. Nothing is said of the kernel.": "SANDBOX_BROKEN",
}
"""Advice -> the reasons that it is for."""


def glossary() -> dict[str, dict[str, str]]:
    """Every reason."""
    advice = {name: text for text, names in ADVICE.items() for name in names.split()}
    return {
        reason.value: {
            "meaning": f"{reason.meaning[:1].upper()}{reason.meaning[1:]}.",
            "advice": advice[reason.value],
            "rows": ", ".join(reason.rows),
            "status": reason.status.value,
        }
        for reason in Reason
    }
