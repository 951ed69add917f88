"""Calls of every kernel with what the native build answers: the other builds must answer the same (replay.py)."""

import struct
from base64 import b64encode

import make
import numpy as np

import kern
from vantage.format import pack_columns

STEPS = ((0, 0, 0, 2), (0, 0, 1, 1), (3, 0, 0, 0), (2, 0, 0, 0))  # of a filter: two terms, not, or
OF_BUILDERS = {  # not in the Worker's module
    "additive_encode", "scalar_encode", "plan_queries_size", "plan_queries", "find_answered", "count_right",
    "select_largest", "matmul_size", "matmul", "nearest",
}  # fmt: skip


class Scratch(bytearray):
    """Room whose content afterwards may differ."""


def recorded() -> list:
    rng = np.random.default_rng(2026)
    calls: list = []

    def call(name: str, *args: object) -> list[bytearray]:
        """numpy arrays and bytes are inputs, bytearrays are written; -> the bytearrays"""
        plain = [a.tobytes() if isinstance(a, np.ndarray) else a for a in args]
        text = lambda a: b64encode(a).decode()  # noqa: E731
        record = [[isinstance(a, bytearray), text(a)] if isinstance(a, bytes | bytearray) else a for a in plain]
        try:
            result = getattr(kern, name)(*plain)
        except ValueError as error:
            result = str(error)
        outputs = [a for a in plain if isinstance(a, bytearray)]
        calls.append([name, record, result, [None if isinstance(a, Scratch) else text(a) for a in outputs]])
        return outputs

    for size in (0, 1, 7, 8, 100, 1023, 1024, 1040, 2352, 2353, 2369, 5000):
        call("crc32c", rng.bytes(size))
        call("crc32c", rng.bytes(size), 99)
    for dim in (1, 3, 16, 17, 97, 384):
        for n in (0, 1, 5):
            query = rng.standard_normal(dim).astype(np.float32)
            f32 = (rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-7, 3, (n, 1))).astype(np.float32)
            f16, u8 = f32.astype(np.float16), rng.integers(0, 256, (n, dim), np.uint8)
            for kind, rows in (("f16", f16), ("f32", f32), ("u8", u8)):
                for metric in ("dot", "l2"):
                    data, stride = b"x" + rows.tobytes(), rows.itemsize * dim
                    call(f"{metric}_{kind}", query, data, 1, stride, n, dim, bytearray(4 * n))
            call("hamming", rng.bytes(dim), u8, n, dim, bytearray(4 * n))
            padded = np.zeros(-(-dim // 32) * 32, np.int16)
            padded[:dim] = rng.integers(-32768, 32768, dim)
            call("matvec_i8", padded, rng.bytes(n * -(-dim // 16) * 16), n, dim, bytearray(4 * n))
            call("matvec_i4", padded, rng.bytes(n * len(padded) // 2), n, dim, bytearray(4 * n))
    call("dot_f16", np.ones(1, np.float32), np.arange(0x7C01, dtype=np.uint16), 0, 2, 0x7C01, 1, bytearray(4 * 0x7C01))
    for blocks, subs in ((1, 1), (5, 3), (300, 4)):
        weights = rng.standard_normal((blocks, subs)).astype(np.float32)
        weights[rng.random(weights.shape) < 0.2] = -np.inf
        dots = rng.integers(-(2**20), 2**20, (blocks, subs)).astype(np.int32)
        scales = rng.random((blocks, subs)).astype(np.float32) * np.float32(3e-5)
        out, scratch = bytearray(4 * blocks), bytearray(dots.nbytes)
        call("block_logits", dots, scales, weights, subs, 0.9, bytearray(4 * blocks), bytearray(dots.nbytes))
        p, _ = call("block_probabilities", dots, scales, weights, subs, 0.9, 1.1, out, scratch)
        nbytes = rng.integers(1000, 90_000, blocks).astype(np.uint32)
        flags = rng.integers(0, 4, blocks).astype(np.uint8)
        for price in (0, 1000, 1_000_000):
            for most in (1, 6):
                scratch = bytearray(blocks * (most + 1))
                call("plan_ranges", bytes(p), nbytes, flags, price, most, bytearray(8 * most), scratch)
    for code_bytes, fine in ((1, 0), (31, 1), (32, 1), (33, 2), (48, 0), (97, 2), (240, 3)):
        q = make.query(rng, code_bytes, fine)
        (tables,) = call("lrsq_tables", q.ys, q.fields, q.starts, q.levels, q.scale, fine, bytearray(len(q.tables)))
        for capacity in (3, 40):
            (pool,) = call("pool_reset", bytearray(kern.pool_size(capacity)), capacity)
            for place, n in enumerate((0, 1, 17, 64, 150)):
                b = make.block(rng, code_bytes, n, rng.integers(0, 200, n))
                call("lrsq_scores", b.data, *b.places, n, 0.5, place, bytes(tables), bytearray(4 * n))
                call("lrsq_scan", b.data, *b.places, n, 0.5, place, bytes(tables), pool)
                mask = rng.bytes(-(-n // 16) * 2)
                call("lrsq_scan", b.data, *b.places, n, 0.5, place, bytes(tables), pool, mask)
                at = b.places
                homes, bases = bytes(len(b.data)), np.array([0.25], np.float32)
                mixed = [bytes(b.data) + homes, at[0], len(b.data), *at[1:], n, 1, bases, place]
                call("lrsq_scan_mixed", *mixed, bytes(tables), pool)
            call("pool_offer", pool, rng.integers(-9999, 9999, 300).astype(np.int32), rng.bytes(1200), 9)
            call("pool_offer", pool, rng.integers(-9999, 9999, 40).astype(np.int32), rng.bytes(160), 7, rng.bytes(5))
            call("pool_finish", pool, bytearray(16 * capacity))
    for blocks in (1, 5, 300):
        counts = (rng.integers(0, 90, blocks) * (rng.random(blocks) < 0.7)).astype(np.float32)
        base, sigma = rng.standard_normal(blocks).astype(np.float32), rng.random(blocks).astype(np.float32) + 0.01
        call("tail_probabilities", counts, base.astype(np.float32), sigma.astype(np.float32), 10, bytearray(4 * blocks))
        call("sum_counts", rng.bytes(3 * blocks), rng.random(3).astype(np.float32), bytearray(4 * blocks))
    for n in (1, 17, 300):
        keys = [[int(k)] if k % 5 else [] for k in rng.integers(-40, 40, n)]
        plane = pack_columns([(False, keys), (True, [sorted({*map(int, rng.integers(0, 9, 3))}) for _ in range(n)])])
        program = struct.pack("<II", 4, 3) + b"".join(struct.pack("<BBHI", *step) for step in STEPS)
        program += struct.pack("<6q", -30, 5, 7, 9, 2, 4)
        scratch = Scratch(kern.filter_rows_size(n))
        call("filter_rows", plane, n, 2, program, bytearray(-(-n // 16) * 2), scratch)
        call("filter_rows", plane[:-9], n, 2, program, bytearray(-(-n // 16) * 2), scratch)
        call("filter_rows_size", n)
        rows = b"\x01" + rng.integers(0, 900, n).astype("<u4").tobytes()
        for dead in (rng.bytes(113), rng.bytes(40), b""):
            call("dead_rows", rows, 1, n, dead, bytearray(-(-n // 16) * 2))
        mask = rng.bytes(-(-n // 16) * 2)
        for column in (0, 1):
            call("column_counts", plane, n, 2, column, mask, bytearray(8 + 16 * max(n, 80)))
        call("column_counts", plane[:-9], n, 2, 1, mask, bytearray(8 + 16 * max(n, 80)))
    for width, n in ((8, 40), (3, 17), (0, 33)):
        ids = [b"\0", *(rng.bytes(1 + i % 9) for i in range(n - 1))]
        ends = np.cumsum([0, *map(len, ids)]).astype(np.uint32)
        plane = rng.bytes(width * n) if width else ends.tobytes() + b"".join(ids)
        (table,) = call("ids_add", plane, width, n, bytearray(8 * 128))
        call("ids_in", plane[::-1] if width else plane, width, n, bytes(table), bytearray(-(-n // 16) * 2))
    for parts in (1, 3, 4):
        vectors = rng.standard_normal((7, 21)).astype(np.float32)
        words = rng.standard_normal((parts, 16, 7)).astype(np.float32)
        call("additive_encode", vectors, words, 21, 7, parts, bytearray(21 * parts))
    call("scalar_encode", vectors, np.sort(words[0, 0]), 147, 7, bytearray(147))
    scores, norms = rng.integers(-(2**30), 2**30 + 1, 100).astype(np.int32), rng.bytes(100)
    for weight, slack in ((0.0, 0.0), (3.25, 17.5), (1e7, 5.0)):
        call("score_bounds", scores, norms, 100, weight, slack, bytearray(400), bytearray(400))
    for dim, layers in ((1, 1), (2, 3), (7, 4), (96, 9), (384, 18)):
        partners, tangents = make.butterfly(rng, dim, layers)
        (plan,) = call("butterfly_plan", partners, tangents, layers, dim, bytearray(4 * dim + 12 * layers * (dim // 2)))
        axes, vector = rng.integers(0, dim, 5).astype(np.uint16), rng.standard_normal(dim).astype(np.float32)
        call("butterfly_turn", vector, bytes(plan), layers, dim, axes, 5, bytearray(20))
        call("butterfly_turn", vector, b"\xff" * len(plan), layers, dim, axes + dim, 5, bytearray(20))
        call("butterfly_plan", partners, tangents + 1, layers, dim, bytearray(len(plan)))
    for blocks in (1, 40, 300):
        p = (rng.exponential(900, (4, blocks)) * (rng.random((4, blocks)) < rng.random())).astype(np.uint32)
        nbytes = rng.integers(1000, 900_000, blocks).astype(np.uint32)
        at = np.cumsum([0, *nbytes[:-1].tolist()]).astype(np.uint64)
        flags = rng.integers(0, 4, 4 * blocks).astype(np.uint8)
        call("plan_queries_size", blocks)
        for price in (0, 1000, 100_000):
            room = [bytearray(size) for size in (9999, 16, 4 * blocks, kern.plan_queries_size(blocks))]
            call("plan_queries", p, nbytes, at, flags, price, 12, *room)
    block, twin = rng.integers(-1, 5, (6, 20)).astype(np.int32), np.full((6, 20), -1, np.int32)
    twin[:, 5:] = rng.integers(-1, 5, (6, 15))
    rank, better = rng.integers(-1, 9, (6, 20)).astype(np.int32), rng.integers(-1, 9, (6, 8)).astype(np.int32)
    copies = block, twin, (rng.random((6, 5)) < 0.6).astype(np.uint8), 6, 20, 5, 9
    call("find_answered", *copies, bytearray(120))
    call("count_right", *copies, rank, np.sort(better, 1), 8, bytearray(24))
    for width, count in ((1, 1), (50, 1), (50, 50), (133, 25)):
        values, bias = (np.round(rng.standard_normal(size), 1).astype(np.float32) for size in ((5, width), width))
        call("select_largest", values, bias, 5, width, count, bytearray(20 * count), bytearray(20 * count))
    for n, m, depth, count in ((1, 1, 1, 1), (9, 50, 7, 50), (5, 130, 390, 17)):
        x, centres = (
            rng.standard_normal((size, depth)) * 2.0 ** rng.integers(-20, 20, (size, depth)) for size in (n, m)
        )
        rows, bias = (x.astype(np.float32), centres.astype(np.float32)), rng.standard_normal(m).astype(np.float32)
        call("matmul_size", m, depth)
        call("matmul", *rows, n, m, depth, bytearray(4 * n * m), Scratch(kern.matmul_size(m, depth)))
        largest = [bytearray(4 * n * count), bytearray(4 * n * count), Scratch(kern.matmul_size(m, depth))]
        call("nearest", *rows, bias, n, m, depth, count, *largest)
    call("pool_size", 65537)
    call("hamming", b"1", b"2", 2**31 - 1, 4096, bytearray(4))
    call("hamming", b"1", b"2", 2**70, 4096, bytearray(4))
    return calls
