"""Rules on C++ and CUDA tokens: no comment, no string, no parser. A name means what it says, wherever it stands.

A kernel's text needs arithmetic, loops, the standard mathematical and vector headers, intrinsics, OpenMP. What the rules
look for belongs to none of them. Macros are looked into: a `#define`'s text is scanned as if it stood in the code, and
`##`, which makes names that no rule has seen, is a finding itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from postgrad.kernels.guard.names import words
from postgrad.kernels.guard.rule import Found, Rule, rule
from postgrad.kernels.guard.rules import find
from postgrad.kernels.guard.tokens import Text, Token, body
from postgrad.kernels.verdict import Reason

RULES: list[Rule[Text]] = []
R = Reason


def _everywhere(text: Text) -> Iterator[Token]:
    """Every token, with those of macros' texts where they are defined."""
    for token in text.tokens:
        if token.kind == "directive":
            yield from (
                (replace(one, line=token.line) for one in body(token)[2:]) if _directive(token) == "define" else ()
            )
        else:
            yield token


def _directive(token: Token) -> str:
    parts = body(token)
    return parts[0].text if parts else ""


def _named(text: Text, names: frozenset[str]) -> Found:
    for token in _everywhere(text):
        if token.kind == "name" and token.text in names:
            yield token.line, token.text


def _called(text: Text, names: frozenset[str]) -> Found:
    """Names that are called, or taken by address; a member of one's own struct (`.open`) too: it errs on seeing more."""
    row = list(_everywhere(text))
    for token, after in zip(row, [*row, None][1:], strict=True):
        if (
            token.kind == "name"
            and token.text in names
            and (after is None or after.text in ("(", ";", ",", ")", "{", "<"))
        ):
            yield token.line, token.text


def _headers(text: Text, names: frozenset[str]) -> Found:
    for token in text.tokens:
        if token.kind == "directive" and _directive(token) in ("include", "import", "include_next"):
            header = token.text.partition("include")[2].strip().strip('<>" \t')
            if header in names:
                yield token.line, token.text


THREADS = words(
    "thread jthread async pthread_create thrd_create fork vfork clone clone3 posix_spawn posix_spawnp packaged_task"
)
JOINS = words("join pthread_join thrd_join wait get waitpid")
FILES = words(
    """fopen fopen64 freopen fdopen open openat open64 creat ofstream ifstream fstream filebuf mmap mmap64 shm_open memfd_create tmpfile mkstemp
    opendir readdir unlink rename remove truncate ftruncate link symlink mkdir rmdir filesystem shmget shmat sendfile splice stat fstat lstat access"""
)
SOCKETS = words(
    "socket connect bind listen accept sendto recvfrom socketpair gethostbyname getaddrinfo inet_addr mq_open mkfifo pipe pipe2 eventfd"
)
SYSTEM = words(
    """syscall ptrace process_vm_readv process_vm_writev mprotect dlopen dlsym dlmopen dlvsym dl_iterate_phdr prctl seccomp personality setrlimit
    sched_setaffinity sched_setscheduler setpriority nice madvise mlock userfaultfd perf_event_open bpf io_uring_setup mremap munmap pkey_mprotect"""
)
COMMANDS = words("system popen execl execle execlp execv execve execvp execvpe fexecve wordexp")
CLOCKS = words(
    """chrono clock_gettime gettimeofday clock time ftime times rdtsc __rdtsc __rdtscp __builtin_ia32_rdtsc __builtin_ia32_rdtscp timespec_get
    getrusage clock64 globaltimer cudaEventElapsedTime cudaEventRecord omp_get_wtime difftime"""
)
SLEEPS = words("sleep usleep nanosleep clock_nanosleep sleep_for sleep_until pause __nanosleep sched_yield")
ENDS = words(
    "exit _exit _Exit quick_exit abort longjmp siglongjmp signal sigaction raise kill killpg atexit at_quick_exit on_exit terminate __builtin_trap"
)
ENVIRONMENT = words(
    "getenv secure_getenv environ __environ getpid getppid gethostname uname getauxval program_invocation_name backtrace __libc_argv"
)
WRITES = words(
    "write pwrite writev fwrite fprintf printf puts putchar fputs fputc cout cerr clog dprintf vprintf perror dup dup2 dup3 fileno stdout stderr"
)
HALF = words(
    "__half half __half2 half2 __nv_bfloat16 nv_bfloat16 __nv_bfloat162 _Float16 __bf16 __fp16 bfloat16_t float16_t BFloat16 Half __nv_fp8_e4m3"
)
SPACES = words("at torch aten ATen cutlass")
LIBRARIES = SPACES | words("sgemm_ dgemm_ sgemv_ saxpy_ dnnl_sgemm")


@rule(RULES, R.T01_SIDE_STREAM, "warn", "makes a stream of its own")
def stream(text: Text) -> Found:
    yield from _named(
        text,
        words(
            "cudaStreamCreate cudaStreamCreateWithFlags cudaStreamCreateWithPriority cudaStreamPerThread getStreamFromPool hipStreamCreate"
        ),
    )


@rule(RULES, R.T01_SIDE_STREAM, "reject", "makes a stream, and nothing waits for it")
def stream_without_join(text: Text) -> Found:
    joined = words(
        "cudaStreamSynchronize cudaStreamWaitEvent cudaDeviceSynchronize cudaEventSynchronize hipDeviceSynchronize"
    )
    if not any(_named(text, joined)):
        yield from _named(
            text,
            words(
                "cudaStreamCreate cudaStreamCreateWithFlags cudaStreamCreateWithPriority getStreamFromPool hipStreamCreate"
            ),
        )


@rule(RULES, R.T02_LATE_WORK, "reject", "starts a thread, and nothing waits for it")
def thread_without_join(text: Text) -> Found:
    joined = any(_called(text, JOINS)) and not any(_named(text, words("detach pthread_detach")))
    if not joined and not any(_named(text, words("jthread"))):
        yield from _called(text, THREADS)


@rule(RULES, R.T02_LATE_WORK, "warn", "starts threads")
def thread(text: Text) -> Found:
    yield from _called(text, THREADS)


@rule(RULES, R.F15_LEFT_PROCESS, "reject", "starts a process or a command")
def process(text: Text) -> Found:
    yield from _called(text, COMMANDS | words("fork vfork clone clone3 posix_spawn posix_spawnp daemon setsid"))


@rule(RULES, R.T05_CLOCK_PATCHED, "reject", "defines a function of the system's clock")
def clock_defined(text: Text) -> Found:
    row = list(_everywhere(text))
    names = CLOCKS | words(
        "cudaEventSynchronize cudaDeviceSynchronize cudaStreamSynchronize read write malloc free memcpy memcmp"
    )
    for before, token, after in zip(row, row[1:], row[2:], strict=False):
        declares = (
            before.kind == "name" and before.text not in ("return", "else", "do", "co_return")
        ) or before.text in ("*", "&")
        if declares and token.text in names and after.text == "(" and _is_definition(row, token):
            yield token.line, f"{before.text} {token.text}("


def _is_definition(row: Sequence[Token], name: Token) -> bool:
    """The parenthesis after a name closes before an opening brace."""
    depth = 0
    for token in row[row.index(name) + 1 :]:
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0 and token.text != ")":
            return token.text == "{"
    return False


@rule(RULES, R.T07_RUNTIME_HOOKED, "reject", "calls the system below the language")
def system_call(text: Text) -> Found:
    yield from _called(text, SYSTEM)
    yield from _headers(
        text,
        words("sys/ptrace.h sys/syscall.h sys/mman.h dlfcn.h link.h elf.h linux/bpf.h linux/io_uring.h sys/prctl.h"),
    )


@rule(RULES, R.T07_RUNTIME_HOOKED, "reject", "machine code in the text")
def assembly(text: Text) -> Found:
    # PTX in a CUDA kernel is how its instructions are reached; on a CPU there are intrinsics.
    for token in _everywhere(text):
        if token.kind == "name" and token.text in ("asm", "__asm", "__asm__") and text.backend == "cpp":
            yield token.line, token.text


@rule(RULES, R.T12_WARM_CACHE, "reject", "sets the cache's carve-out or a limit of the device")
def cache_carve_out(text: Text) -> Found:
    yield from _named(
        text,
        words(
            "cudaLimitPersistingL2CacheSize cudaStreamAttributeAccessPolicyWindow accessPolicyWindow cudaDeviceSetLimit cudaAccessPropertyPersisting"
        ),
    )


@rule(RULES, R.T10_STALE_GRAPH, "warn", "captures a CUDA graph")
def graph(text: Text) -> Found:
    yield from _named(text, words("cudaStreamBeginCapture cudaGraphLaunch cudaGraphInstantiate"))


@rule(RULES, R.T14_PRECOMPUTED, "reject", "runs before it is called")
def constructor(text: Text) -> Found:
    yield from _named(
        text,
        words(
            "constructor __constructor__ destructor __destructor__ init_priority section __section__ ifunc __ifunc__ alias __alias__"
        ),
    )


@rule(RULES, R.T17_TIMES_ITSELF, "reject", "reads a clock or sleeps")
def clock(text: Text) -> Found:
    yield from _called(text, CLOCKS - {"chrono"})
    yield from _called(text, SLEEPS)
    yield from _headers(text, words("chrono ctime time.h sys/time.h"))


@rule(RULES, R.C05_STALE_RESULT, "warn", "keeps something between calls")
def static_state(text: Text) -> Found:
    """`static` or `thread_local` at any depth, and definitions at namespace depth, that are neither constant nor functions."""
    row = [token for token in text.tokens if token.kind != "directive"]
    depth, start = 0, 0
    opened: list[bool] = []
    for index, token in enumerate(row):
        if token.text == "{":
            # extern "C" { and namespace x { open no scope of their own.
            outer = [one.text for one in row[start:index]]
            plain = depth == 0 and ("namespace" in outer or (outer[:1] == ["extern"] and len(outer) == 2))
            opened.append(plain)
            depth += not plain
            if plain or (depth == 1 and ")" in outer):
                start = index + 1
        elif token.text == "}":
            depth -= not (opened.pop() if opened else True)
            start = index + 1 if depth == 0 else start
        elif token.text == ";":
            parts = [one.text for one in row[start:index]]
            if depth == 0 and _is_variable(parts):
                yield row[start].line, " ".join(parts)[:80]
            start = index + 1 if depth == 0 else start
        if token.text in ("static", "thread_local") and depth > 0:
            end = next((i for i in range(index, len(row)) if row[i].text in (";", "{", "=", "(")), len(row) - 1)
            parts = [one.text for one in row[index:end]]
            if not _constant(parts):
                yield token.line, " ".join(parts)[:80]


def _constant(parts: Sequence[str]) -> bool:
    return "constexpr" in parts or "constinit" in parts or ("const" in parts and "*" not in parts)


def _is_variable(parts: Sequence[str]) -> bool:
    if not parts or parts[0] in words(
        "using typedef template struct class enum union namespace friend static_assert } #"
    ):
        return False
    head = list(parts[: parts.index("=")]) if "=" in parts else list(parts)
    return "(" not in head and not _constant(parts) and len(head) >= 2


@rule(RULES, R.C06_SHARED_FILE, "reject", "opens files, shared memory or a connection")
def files(text: Text) -> Found:
    yield from _called(text, FILES | SOCKETS)
    yield from _headers(
        text,
        words(
            "fstream filesystem fcntl.h sys/socket.h sys/shm.h sys/stat.h netinet/in.h arpa/inet.h sys/un.h cstdio.h dirent.h"
        ),
    )


@rule(RULES, R.F13_CONTAMINATED, "reject", "takes a file of the machine into its build")
def taken_file(text: Text) -> Found:
    for token in text.tokens:
        if token.kind != "directive":
            continue
        name = _directive(token)
        path = token.text.partition("include")[2].strip()
        if name == "embed" or (
            name.startswith("include")
            and (path.startswith('"/') or path.startswith("</") or ".." in path or path.startswith('"'))
        ):
            yield token.line, token.text
    yield from _named(text, words("__has_include __has_embed incbin"))


@rule(RULES, R.C10_INPUT_CHANGED, "warn", "casts const away")
def const_cast(text: Text) -> Found:
    yield from _named(text, words("const_cast"))


@rule(RULES, R.S04_LOW_PRECISION, "warn", "uses numbers of less than the declared precision")
def half_precision(text: Text) -> Found:
    if text.precision in ("float32", "float64"):
        yield from _named(text, HALF)


@rule(RULES, R.F14_THREADS_CHANGED, "reject", "changes threads, rounding or the compiler's rules for the whole text")
def process_setting(text: Text) -> Found:
    yield from _called(
        text,
        words(
            "omp_set_num_threads omp_set_dynamic fesetround fesetenv _MM_SET_FLUSH_ZERO_MODE _MM_SET_DENORMALS_ZERO_MODE _mm_setcsr"
        ),
    )
    for token in text.tokens:
        if token.kind == "directive" and _directive(token) == "pragma":
            parts = [one.text for one in body(token)]
            if "optimize" in parts or "plugin" in parts or "float_control" in parts:
                yield token.line, token.text
    yield from _named(text, words("optimize __optimize__"))


@rule(RULES, R.S09_GRADER_SNIFFED, "reject", "asks where it runs")
def environment(text: Text) -> Found:
    yield from _named(text, ENVIRONMENT)


@rule(RULES, R.F11_FOREIGN_MEMORY, "reject", "names a file of the system's processes")
def system_files(text: Text) -> Found:
    for token in _everywhere(text):
        if token.kind == "string" and token.text.partition('"')[2].startswith(("/proc/", "/dev/", "/sys/")):
            yield token.line, token.text[:80]


@rule(RULES, R.F10_FORGED_RESULT, "reject", "ends the process, or writes to its channels")
def early_end(text: Text) -> Found:
    yield from _called(text, ENDS | WRITES - {"cout", "cerr", "clog"})
    yield from _named(text, words("cout cerr clog"))
    yield from _headers(text, words("csignal signal.h csetjmp setjmp.h"))


def _libraries(text: Text) -> Found:
    for token, after in itertools.pairwise(_everywhere(text)):
        known = token.text in LIBRARIES or token.text.startswith(
            ("cblas_", "LAPACKE_", "mkl_", "cublas", "cudnn", "cusparse")
        )
        opened = after.text == "::" if token.text in SPACES else after.text in ("(", "::")
        if token.kind == "name" and known and opened:
            yield token.line, f"{token.text}{after.text}"


@rule(RULES, R.F04_LIBRARY_CALL, "reject", "a library does the work")
def library_on_cpu(text: Text) -> Found:
    if text.backend == "cpp":
        yield from _libraries(text)


@rule(RULES, R.F04_LIBRARY_CALL, "suspect", "a library does the work")
def library(text: Text) -> Found:
    if text.backend != "cpp":
        yield from _libraries(text)


@rule(RULES, R.F07_ADDRESSES_JUDGE, "suspect", "a comment speaks to the one who judges")
def addressed(text: Text) -> Found:
    for comment in text.comments:
        if find.addresses(comment.text):
            yield comment.line, comment.text[:120]


@rule(RULES, R.F05_OBFUSCATED, "reject", "makes names while it is compiled")
def pasted_names(text: Text) -> Found:
    for token in text.tokens:
        if token.kind == "directive" and any(one.text == "##" for one in body(token)):
            yield token.line, token.text[:80]
        if token.kind == "broken":
            yield token.line, "a string or a comment that never ends"
    # \u0073ystem is a name too.
    for token in text.tokens:
        if token.text == "\\":
            yield token.line, "a name with an escape"


@rule(RULES, R.F16_BUILD_ABUSED, "reject", "a table of numbers instead of a computation")
def table(text: Text) -> Found:
    """More than 1,000 numbers between one pair of braces."""
    counts: list[int] = []
    for token in text.tokens:
        if token.text == "{":
            counts.append(0)
        elif token.text == "}" and counts:
            inside = counts.pop()
            if inside > 1000:
                yield token.line, f"{inside} numbers"
            if counts:
                counts[-1] += inside
        elif counts and token.kind == "number":
            counts[-1] += 1
    if sum(len(token.text) for token in text.tokens) > 200_000:
        yield 1, "more than 200,000 characters"


@rule(RULES, R.F03_DECOY_KERNEL, "reject", "a kernel that is never launched")
def decoy(text: Text) -> Found:
    row = list(_everywhere(text))
    if text.backend == "cpp":
        return
    for index, token in enumerate(row):
        if token.text == "__global__":
            head = next((i for i in range(index, len(row)) if row[i].text == "("), None)
            # __launch_bounds__(256) has parentheses of its own.
            while head is not None and row[head - 1].text == "__launch_bounds__":
                head = next((i for i in range(head + 1, len(row)) if row[i].text == "("), None)
            if head is not None:
                name = row[head - 1].text
                if sum(one.text == name for one in row) < 2:
                    yield token.line, name
