"""Which of the ten optimisation techniques a kernel uses, told from its text alone.

The ten are those that CUDA-L1 (arXiv 2507.14111) finds in its kernels; the patterns are ours. A tag says that the text holds what
the technique is written with, not that it helps or that it runs: for reports, diversity and diffs, never for a score.

On a CPU each has a counterpart where there is one: the loop over elements for the thread, the vector for the warp, the cache
for shared memory, threads for streams.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from postgrad.kernels.candidate import Backend


class Technique(StrEnum):
    MEMORY_LAYOUT = "memory_layout"
    """Data put in another order: transposed, blocked, padded."""
    MEMORY_ACCESS = "memory_access"
    """Reads that are wide, aligned, cached or prefetched."""
    FUSION = "operation_fusion"
    """Several operations in one pass, without intermediate results in memory."""
    MEMORY_FORMAT = "memory_format"
    """Another storage format or type: channels last, half precision, packed integers."""
    COALESCING = "memory_coalescing"
    """Neighbouring threads, or steps of the inner loop, touch neighbouring addresses."""
    WARP = "warp_level"
    """Work shared inside a warp; on a CPU inside a vector."""
    BLOCK = "thread_block_configuration"
    """Sizes of blocks and tiles chosen on purpose; on a CPU tiles of loops."""
    SHARED_MEMORY = "shared_memory"
    """A tile kept close; on a CPU a buffer on the stack that fits a cache."""
    REGISTERS = "register_optimization"
    """Values kept in registers: unrolled loops, several accumulators, restrict."""
    STREAMS = "stream_management"
    """Work that overlaps: streams, graphs, asynchronous copies; on a CPU threads."""


_TORCH = {
    Technique.MEMORY_LAYOUT: r"\.permute\(|\.transpose\(|\.contiguous\(|\.as_strided\(|F\.pad\(",
    Technique.FUSION: r"torch\.compile|torch\.(?:addmm|baddbmm|addcmul|addcdiv|einsum)\b|jit\.script|\.[a-z]\w*[a-z0-9]_\(",
    Technique.MEMORY_FORMAT: r"channels_last|\.half\(|bfloat16|float16|autocast|\.to_sparse",
    Technique.STREAMS: r"cuda\.(?:Stream|stream|CUDAGraph|graph)\b|make_graphed_callables",
}
_CUDA = {
    Technique.MEMORY_LAYOUT: r"\btranspos\w*|\[\s*\w+\s*\]\[\s*\w+\s*\+\s*1\s*\]|\bswizzl\w*|\.contiguous\(",
    Technique.MEMORY_ACCESS: r"\bfloat[24]\b|\bhalf2\b|\bint4\b|__ldg\(|__ldcs\(|__builtin_assume_aligned|cp\.async|__pipeline|\breinterpret_cast<\s*(?:const\s+)?\w+[248]\b",
    Technique.FUSION: r"\bfused?\w*|\bepilogue\b",
    Technique.MEMORY_FORMAT: r"\b__half\b|\bhalf\b|__nv_bfloat16|\bchannels_last\b|\bint8_t\b|__nv_fp8",
    Technique.COALESCING: r"\[[^\]]*(?:blockIdx\.x\s*\*\s*blockDim\.x\s*\+\s*)?threadIdx\.x[^\]]*\]|=\s*blockIdx\.x\s*\*\s*blockDim\.x\s*\+\s*threadIdx\.x",
    Technique.WARP: r"__shfl\w*|__ballot_sync|__reduce_\w+_sync|__any_sync|__all_sync|\bwarp\w*|\bwmma\b|mma\.sync|tiled_partition",
    Technique.BLOCK: r"__launch_bounds__|\bdim3\b|cudaOccupancy\w+|#define\s+\w*(?:BLOCK|TILE|THREADS)\w*\s+\d+|constexpr\s+int\s+\w*(?:BLOCK|TILE|THREADS)",
    Technique.SHARED_MEMORY: r"__shared__",
    Technique.REGISTERS: r"#pragma\s+unroll|__restrict__|\bregister\b|maxrregcount|\bfloat\s+\w*(?:acc|reg)\w*\s*\[",
    Technique.STREAMS: r"cudaStream\w*|cudaGraph\w*|getCurrentCUDAStream|cudaMemcpyAsync",
}
_TRITON = {
    Technique.MEMORY_LAYOUT: r"tl\.trans\(|tl\.permute\(|make_block_ptr|\.contiguous\(",
    Technique.MEMORY_ACCESS: r"eviction_policy|cache_modifier|tl\.(?:multiple_of|max_contiguous)|make_tensor_descriptor",
    Technique.FUSION: r"\bfused?\w*|\bepilogue\b",
    Technique.MEMORY_FORMAT: r"tl\.(?:float16|bfloat16|int8|float8\w*)|channels_last",
    Technique.COALESCING: r"tl\.arange\(",
    Technique.WARP: r"num_warps|tl\.(?:sum|max|min|reduce|dot|associative_scan)\(",
    Technique.BLOCK: r"\bBLOCK\w*\s*[:=]|triton\.autotune|triton\.Config",
    Technique.REGISTERS: r"tl\.static_range|maxnreg",
    Technique.STREAMS: r"num_stages|cuda\.(?:Stream|CUDAGraph)\b",
}
_CPP = {
    Technique.MEMORY_LAYOUT: r"\btranspos\w*|\bpacked?\w*\b|\bswizzl\w*",
    Technique.MEMORY_ACCESS: r"__builtin_prefetch|_mm_prefetch|__builtin_assume_aligned|\balignas\b|aligned_alloc|_mm\w*_(?:load|stream)\w*",
    Technique.FUSION: r"\bfused?\w*|\bepilogue\b|\bfmaf?\(|_fmadd_",
    Technique.MEMORY_FORMAT: r"\b_Float16\b|__bf16|\bint8_t\b|\buint16_t\b",
    Technique.COALESCING: r"\[[^\]]*\*[^\]]*\+\s*[a-z]\s*\]",
    Technique.WARP: r"_mm(?:256|512)?_\w+|__m(?:128|256|512)|vector_size|omp\s+(?:parallel\s+for\s+)?simd|GCC\s+ivdep",
    Technique.BLOCK: r"\b(?:tile|TILE|block|BLOCK)\w*",
    Technique.SHARED_MEMORY: r"\b(?:float|double|int)\s+\w+\s*\[\s*\w+\s*(?:\*\s*\w+\s*)?\](?:\s*\[\s*\w+\s*\])?\s*(?:;|=\s*\{)",
    Technique.REGISTERS: r"__restrict(?:__)?|GCC\s+unroll|\bregister\b|\b(?:acc|sum|s)[0-3]\b",
    Technique.STREAMS: r"omp\s+parallel|std::(?:thread|async|jthread)|pthread_create",
}
_OF: Mapping[Backend, tuple[Mapping[Technique, str], ...]] = {
    "torch": (_TORCH,),
    "triton": (_TRITON, _TORCH),
    "cuda": (_CUDA, _TORCH),
    "cpp": (_CPP,),
}
_COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_HASHES = re.compile(r"(?m)^\s*#(?!\s*(?:pragma|define|include|if|ifdef|ifndef|else|endif|undef)\b)[^\n]*")


def techniques(code: str, backend: Backend) -> tuple[str, ...]:
    """Tags in the order of `Technique`. Comments claim much, so they are not read."""
    text = _HASHES.sub("", _COMMENTS.sub("", code) if backend in ("cpp", "cuda") else code)
    found = {
        technique for patterns in _OF[backend] for technique, pattern in patterns.items() if re.search(pattern, text)
    }
    return tuple(technique.value for technique in Technique if technique in found)
