"""The same rows make the same bytes on any processor and with any number of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import clustered

import kern
from build_index.hashing.products import TARGET, times
from build_index.kernels import matmul
from build_index.pinned import THREADS, pin, pinned

PATHS = kern.scan_path(255)
BUILDS = {"fast": ["--fast"], "mlp": ["--router", "mlp"]}
PROGRAM = """
import json, os, sys
cores, path, folder, builds = json.loads(sys.argv[1])
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
from build_index.pinned import pin
pin()
import kern
kern.scan_path(path)
from build_index.cli.main import main
from build_index.routers import mlp
mlp.STEPS = 20  # bits that differ do so in the first ones
for name, options in builds.items():
    sys.argv = ["vantage", "build", "rows.npy", "--out", f"{folder}/{name}", *options]
    try:
        main()
    except SystemExit as end:
        assert not end.code
"""


@pytest.mark.skipif(PATHS < 2, reason="this processor has one kind of kernel")
def test_a_build_is_the_same_by_avx2_and_avx512_and_by_one_core_and_two(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", clustered(3000, 32, 5))
    generations = []
    for cores, path in ((1, 1), (2, 2)):
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(cores)
        )  # as another environment has it
        given = json.dumps([cores, path, f"by{path}", BUILDS])
        command = [sys.executable, "-c", PROGRAM, given]
        ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, **threads}, capture_output=True, text=True)
        assert not ran.returncode, ran.stderr
        live = [json.loads((tmp_path / f"by{path}" / name / "CURRENT").read_text()) for name in BUILDS]
        generations.append([one["generation"] for one in live])
    assert generations[0] == generations[1]


def test_pins_leave_instructions_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in pinned():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "SkylakeX")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    pin()
    assert {name: os.environ[name] for name in pinned()} == {**pinned(), "OPENBLAS_CORETYPE": "SkylakeX"}
    assert THREADS.items() <= pinned().items()


@pytest.mark.skipif(PATHS < 1, reason="this processor has no AVX2")
def test_what_is_pinned_is_heard() -> None:
    """By numpy without a warning, by faiss, and by OpenBLAS: a name that none knows any more would pin nothing."""
    program = """
import sys, warnings
warnings.simplefilter("error")
from build_index.pinned import pin
pin()
assert not {"numpy", "faiss", "jax", "scipy"} & set(sys.modules)
import numpy as np
from numpy._core._multiarray_umath import __cpu_features__
warnings.simplefilter("default")
import faiss
assert not any(__cpu_features__[name] for name in ("X86_V4", "AVX512_ICL", "AVX512_SPR"))
assert faiss.SIMDConfig.get_level_name() == "AVX2" and faiss.omp_get_max_threads() == 1
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_products_of_jax_and_their_slopes() -> None:
    import jax

    draw = np.random.default_rng(1)
    a, b, weight = (draw.standard_normal(shape).astype(np.float32) for shape in ((19, 70), (50, 70), (19, 50)))
    assert (np.asarray(jax.jit(times)(a, b)) == matmul(a, b)).all()
    slopes = jax.grad(lambda x, y: (times(x, y) * weight).sum(), (0, 1))(a, b)
    assert (np.asarray(slopes[0]) == matmul(weight, b.T)).all()
    assert (np.asarray(slopes[1]) == matmul(weight.T, a.T)).all()


def test_products_of_arrays_that_do_not_fit() -> None:
    import jax

    a, b = np.ones((4, 6), np.float32), np.ones((5, 6), np.float32)
    times(a, b)  # registers it
    size = kern.matmul_size(5, 6)
    for rows, out, scratch in (
        ((a, b[:, :5]), (4, 5), size), ((a, b), (4, 4), size), ((a, b), (4, 5), size - 1), ((a, b[0]), (4, 5), size),
        ((a,), (4, 5), size), ((a.astype(np.int32), b), (4, 5), size),
    ):  # fmt: skip
        shapes = jax.ShapeDtypeStruct(out, np.float32), jax.ShapeDtypeStruct((scratch,), np.uint8)
        with pytest.raises(Exception, match="vantage_matmul: arrays of other types or shapes"):
            jax.block_until_ready(jax.ffi.ffi_call(TARGET, shapes)(*rows))
