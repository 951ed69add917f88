"""Fixes which instructions and how many threads numpy, OpenBLAS, faiss and XLA use: each choice rounds differently."""

from __future__ import annotations

import os
import platform

import kern

AVX2 = 1  # the path of the kernels
THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "NPROC": "1"}  # the last is XLA's
INSTRUCTIONS = {
    "OPENBLAS_CORETYPE": "Haswell",
    "FAISS_SIMD_LEVEL": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}


def pinned() -> dict[str, str]:
    """Environment variables by which the same rows make the same bytes on AVX2 and AVX-512, with any number of cores.

    They count where they are set before these packages are imported, of which this module imports none, and in the
    processes that are started then.
    """
    x86 = platform.machine() in ("x86_64", "AMD64") and kern.scan_path(255) >= AVX2
    return THREADS | (INSTRUCTIONS if x86 else {})


def pin() -> None:
    """Sets them: threads in any case, instructions where the environment does not name others.

    It may do so because OpenBLAS takes a processor for another one; then only builds with the same value are alike.
    """
    for name, value in pinned().items():
        if name in THREADS:
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)
