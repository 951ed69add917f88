"""Every function refuses what does not fit, and says which argument is wrong."""

import numpy as np
import pytest

import kern

Q = bytes(64)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("crc32c", (b"", -1), "crc is -1, want 0 to 4294967295"),
        ("hamming", (Q, Q, 1, 0, bytearray(4)), "width is 0, want 1 to 4096"),
        ("hamming", (Q, Q, -1, 8, bytearray(4)), "n is -1"),
        ("hamming", (Q, Q, 9, 8, bytearray(36)), "codes has 64 bytes, needs 72"),
        ("hamming", (Q, Q, 2, 8, bytearray(7)), "out has 7 bytes, needs 8"),
        ("hamming", (b"1", Q, 2, 8, bytearray(8)), "query has 1 bytes, needs 8"),
        ("hamming", (bytes(4096), Q, 2**31 - 1, 4096, bytearray(8)), "codes has 64 bytes, needs 8796093018112"),
        ("hamming", (Q, Q, 2**64, 8, bytearray(8)), "n has more than 64 bits"),
        ("dot_f16", (Q, Q, 0, 31, 1, 16, bytearray(4)), "stride is 31, want 32 to"),
        ("dot_f32", (Q, Q, 1, 64, 1, 16, bytearray(4)), "rows has 64 bytes, needs 65"),
        ("dot_u8", (Q, Q, 0, 16, 5, 16, bytearray(20)), "rows has 64 bytes, needs 80"),
        ("dot_i8", (Q, Q, 4, 16, 4, 16, bytearray(16)), "rows has 64 bytes, needs 68"),
        ("l2_f16", (Q, Q, -1, 32, 1, 16, bytearray(4)), "offset is -1"),
        ("l2_f32", (Q, Q, 0, 68, 1, 17, bytearray(4)), "query has 64 bytes, needs 68"),
        ("l2_u8", (Q, Q, 0, 16, 4, 0, bytearray(16)), "dim is 0, want 1 to 4096"),
        (
            "l2_u8",
            (Q, Q, 2**48, 2**31 - 1, 2**31 - 1, 1, bytearray(16)),
            "rows has 64 bytes, needs 4611967486961647619",
        ),
        ("matvec_i8", (bytes(31), Q, 1, 3, bytearray(4)), "query has 31 bytes, needs 32"),
        ("matvec_i8", (Q, Q, 5, 3, bytearray(20)), "rows has 64 bytes, needs 80"),
        ("matvec_i4", (bytes(63), Q, 1, 3, bytearray(4)), "query has 63 bytes, needs 64"),
        ("matvec_i4", (Q, Q, 5, 3, bytearray(20)), "rows has 64 bytes, needs 80"),
        ("block_logits", (Q, Q, Q, 2, 1, bytearray(28), bytearray(64)), "dots has 64 bytes, wants exa"),
        ("block_logits", (Q, Q, Q, 2, 1, bytearray(32), bytearray(63)), "scratch has 63 bytes, needs 64"),
        ("block_probabilities", (Q, Q, Q, 2, 1, 1, bytearray(28), bytearray(64)), "dots has 64 bytes, wants exa"),
        ("block_probabilities", (Q, Q, Q, 2, 1, 1, bytearray(30), bytearray(64)), "out has 30 bytes, wants exactly 28"),
        ("block_probabilities", (Q, Q, Q, 2, 1, 1, bytearray(32), bytearray(63)), "scratch has 63 bytes, needs 64"),
        ("block_probabilities", (Q, Q, Q, 0, 1, 1, bytearray(32), bytearray(64)), "subs is 0"),
        ("plan_ranges", (Q, Q, bytes(16), 1, 0, bytearray(8), bytearray(99)), "ranges_max is 0, want 1 to 64"),
        ("plan_ranges", (Q, Q, bytes(15), 1, 1, bytearray(8), bytearray(99)), "p has 64 bytes, wants exactly 60"),
        ("plan_ranges", (Q, Q, bytes(16), 1, 2, bytearray(15), bytearray(99)), "out has 15 bytes, needs 16"),
        ("plan_ranges", (Q, Q, bytes(16), 1, 2, bytearray(16), bytearray(47)), "scratch has 47 bytes, needs 48"),
        ("plan_ranges", (b"", b"", b"", 1, 2, bytearray(16), bytearray(47)), "flags has 0 bytes, needs 1"),
        ("plan_ranges", (Q, Q, bytes(2**20 + 1), 1, 2, bytearray(16), bytearray(47)), "flags has 1048577 blocks"),
        ("lrsq_tables_size", (7681, 0), "code_bytes is 7681, want 1 to 7680"),
        ("lrsq_tables_size", (64, 3), "fine is 3, want 0 to 2"),
        ("lrsq_tables_size", (7680, 17), "fine is 17, want 0 to 16"),
    ],
)
def test_refused(name, args, message):
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        getattr(kern, name)(*args)


def test_outputs_may_not_overlap():
    buffer = bytearray(64)
    with pytest.raises(ValueError, match="hamming: out overlaps codes, give them separate buffers"):
        kern.hamming(Q, buffer, 1, 8, memoryview(buffer)[4:8])
    kern.hamming(Q, memoryview(buffer)[:8], 1, 8, memoryview(buffer)[8:12])  # beside is fine


def test_python_errors_pass_through():
    with pytest.raises(TypeError, match="crc32c: got 0 arguments, takes 2"):
        kern.crc32c()
    with pytest.raises(TypeError):
        kern.crc32c("text")
    with pytest.raises(TypeError):
        kern.pool_size("1")
    with pytest.raises(BufferError):
        kern.hamming(Q, Q, 1, 8, bytes(4))
    with pytest.raises(BufferError):
        kern.crc32c(memoryview(bytes(64))[::2])
    assert kern.pool_size(np.int64(3)) == kern.pool_size(3)
