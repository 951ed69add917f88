"""The kernels with random arguments: each call answers or raises, and touches no byte outside of its buffers.

    python -m bench.faults.fuzz_kernels [--cases 200000] [--seed 0] [--asan]

Buffers end where a page begins that no one may touch, so that a read or write past an end kills the process; read-only
buffers lie on pages that cannot be written. --asan: a build with address and undefined-behaviour checks instead, whose
buffers lie on the heap; it needs gcc's libasan. Scans take any of the processor's paths. The work runs in a process of
its own; when it dies, the case is named. Exit 1 where one dies, or raises anything but ValueError, TypeError,
BufferError or OverflowError.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import kern as kernels
from vantage.format import pack_columns

SOURCES = Path(__file__).resolve().parents[2] / "kernels"
PAGE = mmap.PAGESIZE
ROOM = 1 << 17  # bytes of the largest buffer
PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2
RAISED = (ValueError, TypeError, BufferError, OverflowError)
INTEGERS = (0, 1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 4095, 4096, 4097, 65535, 65536, 65537, (1 << 31) - 1, 1 << 31,
            (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 64, -1, -16, -(1 << 31), -(1 << 63))  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, 3e38, 1e39, 1e308, float("inf"), float("-inf"), float("nan"))

# How each kernel is called: o an output, b a buffer, i an integer (a place, count, size or shift), f a number.
SIGNATURES = {
    "crc32c": "bi", "hamming": "bbiio", "dot_f16": "bbiiiio", "dot_f32": "bbiiiio", "dot_u8": "bbiiiio",
    "dot_i8": "bbiiiio", "l2_f16": "bbiiiio", "l2_f32": "bbiiiio", "l2_u8": "bbiiiio",
    "matvec_i8": "bbiio", "matvec_i4": "bbiio",
    "block_logits": "bbbifoo",
    "block_probabilities": "bbbiffoo", "plan_ranges": "bbbiioo", "lrsq_tables_size": "ii", "lrsq_tables": "bbbbfio",
    "lrsq_scan": "biiiiiifiBP", "lrsq_scores": "biiiiiifiBo", "pool_size": "i", "pool_reset": "oi",
    "pool_offer": "Pbbi", "pool_finish": "Po", "additive_encode": "bbiiio", "scalar_encode": "bbiio",
    "score_bounds": "bbiffoo",
    "butterfly_plan": "bbiio", "butterfly_turn": "bbiibio",
    "plan_queries_size": "i", "plan_queries": "bbbbiioooo", "find_answered": "bbbiiiio", "count_right": "bbbiiiibbio",
    "dead_rows": "biibo",
    "filter_rows_size": "i", "filter_rows": "biiboo", "sum_counts": "bbo", "tail_probabilities": "bbbfo",
    "lrsq_scan_mixed": "biiiiiiiibiBPb", "select_largest": "bbiiioo", "matmul_size": "ii", "matmul": "bbiiioo",
    "nearest": "bbbiiiiooo", "ids_add": "biio", "ids_in": "biibo",
}  # fmt: skip


class Guarded:
    """Room for a buffer of any length up to ROOM that ends at a page without access."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, ROOM + PAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self._protect(self.start + ROOM, PAGE, PROT_NONE)

    def _protect(self, address: int, length: int, how: int) -> None:
        mprotect = ctypes.CDLL(None, use_errno=True).mprotect
        mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        if mprotect(address, length, how):
            raise OSError(ctypes.get_errno(), "mprotect")

    def view(self, data: bytes, writable: bool) -> memoryview:
        """These bytes, at the end of the room."""
        self._protect(self.start, ROOM, PROT_READ | PROT_WRITE)
        at = ROOM - len(data)
        self.map[at:ROOM] = data
        if not writable:
            self._protect(self.start, ROOM, PROT_READ)
        view = memoryview(self.map)[at:ROOM]
        return view if writable else view.toreadonly()


def length_of(draw: Random) -> int:
    return draw.choice((0, 1, 3, 4, 15, 16, 31, 32, 33, 63, 64, 128, 256, 1024, 4096, draw.randrange(ROOM + 1)))


def data_of(draw: Random, length: int) -> bytes:
    """Random bytes, or small numbers, which are more often in range."""
    kind = draw.randrange(4)
    if kind == 0:
        return draw.randbytes(length)
    if kind == 1:
        return bytes(length)
    unit = draw.randbytes(16) if kind == 2 else bytes([draw.randrange(4), 0, 0, 0]) * 4
    return (unit * (length // 16 + 1))[:length]


def integer(draw: Random) -> int:
    return draw.choice(INTEGERS) if draw.random() < 0.4 else draw.randrange(-2, 70)


def pool_of(draw: Random) -> bytes:
    """A pool as it should be, one changed in a word, or any bytes."""
    capacity = draw.choice((1, 2, 16, 100, 300))
    pool = bytearray(kernels.pool_size(capacity))
    kernels.pool_reset(pool, capacity)
    if draw.random() < 0.5:
        at = draw.randrange(min(16, len(pool) // 4)) * 4
        pool[at : at + 4] = (draw.choice(INTEGERS) % (1 << 32)).to_bytes(4, "little")
    return bytes(pool) if draw.random() < 0.9 else draw.randbytes(len(pool))


def tables_of(draw: Random) -> bytes:
    """Scan tables as they should be, or changed in a word."""
    code_bytes, fine = draw.choice((1, 2, 31, 32, 33, 70)), 0
    tables = bytearray(kernels.lrsq_tables_size(code_bytes, fine))
    tables[:4] = code_bytes.to_bytes(4, "little")
    if draw.random() < 0.5:
        at = draw.randrange(min(72, len(tables) // 4)) * 4
        tables[at : at + 4] = (draw.choice(INTEGERS) % (1 << 32)).to_bytes(4, "little")
    return bytes(tables)


def plane_of(draw: Random, n: int) -> bytes:
    """Columns of n rows: of few values, of many, of lists, and one that is not there."""
    few, wide = [draw.randrange(-3, 4) for _ in range(n)], [draw.getrandbits(63) for _ in range(n)]
    columns: list[Any] = [[[v] if draw.random() < 0.8 else [] for v in values] for values in (few, wide)]
    lists = [sorted(set(draw.choices(range(9), k=draw.randrange(4)))) for _ in range(n)]
    return pack_columns([(False, columns[0]), (False, columns[1]), (True, lists), None])


def program_of(draw: Random) -> bytes:
    """Postfix steps of a filter on those columns, most of which fit."""
    steps, spans = list[tuple[int, int, int, int]](), list[int]()
    for i in range(draw.randrange(1, 5)):
        own = sorted(draw.sample(range(-9, 10), 2 * draw.randrange(3)))
        spans += own
        steps += [
            (0, 0, draw.choice((0, 0, 1, 1, 2, 2, 2, 3)), len(own) // 2),
            *[(draw.choice((1, 2)), 0, 0, 0)] * (i > 0),
        ]
        steps += [(3, 0, 0, 0)] * (draw.random() < 0.3)
    head = struct.pack("<II", len(steps), len(spans) // 2) + b"".join(struct.pack("<BBHI", *step) for step in steps)
    return head + struct.pack(f"<{len(spans)}q", *spans)


def fitting(name: str, draw: Random) -> list[Any] | None:
    """Arguments that fit, as lists of bytes and numbers, for kernels that rarely meet any; None for the others."""
    n = draw.randrange(1, 40)
    if name in ("lrsq_scan", "lrsq_scores"):
        code_bytes, groups = draw.choice((1, 8, 33)), -(-n // 16)
        tables = bytearray(kernels.lrsq_tables_size(code_bytes, 0))
        tables[:4] = code_bytes.to_bytes(4, "little")
        codes, f = 32, 32 + 16 * groups * code_bytes
        data = draw.randbytes(f + 16 * groups * 2 + 4 * n)
        places = [8, codes, f, f + 16 * groups, f + 32 * groups, n]
        return [data, *places, 0.5, 0, bytes(tables), pool_of(draw) if name == "lrsq_scan" else bytes(4 * n)]
    if name == "lrsq_scan_mixed":
        code_bytes, groups, blocks = draw.choice((1, 8, 33)), -(-n // 16), draw.randrange(1, 5)
        tables = bytearray(kernels.lrsq_tables_size(code_bytes, 0))
        tables[:4] = code_bytes.to_bytes(4, "little")
        homes = 16 * blocks
        codes = homes + n
        f = codes + 16 * groups * code_bytes
        data = bytes(homes) + bytes(draw.randrange(blocks) for _ in range(n)) + draw.randbytes(f - codes + 32 * groups)
        places = [0, homes, codes, f, f + 16 * groups, f + 32 * groups, n, blocks]
        mask = [draw.randbytes(2 * groups)] * (draw.random() < 0.8)
        return [data + draw.randbytes(4 * n), *places, bytes(4 * blocks), 0, bytes(tables), pool_of(draw), *mask]
    if name == "dead_rows":
        at = draw.randrange(9)
        rows = b"".join(
            draw.choice((draw.randrange(99), draw.randrange(1 << 32))).to_bytes(4, "little") for _ in range(n)
        )
        return [bytes(at) + rows, at, n, draw.randbytes(draw.randrange(14)), bytes(2 * -(-n // 16))]
    if name == "filter_rows":
        scratch = bytes(kernels.filter_rows_size(n))
        return [plane_of(draw, n), n, 4, program_of(draw), bytes(2 * -(-n // 16)), scratch]
    if name in ("ids_add", "ids_in"):
        width, table = draw.choice((0, 1, 8, 32)), bytes(8 << draw.randrange(1, 8))
        ids = (
            b"".join(draw.choice((3 * i, 3 * i, 1 << 31)).to_bytes(4, "little") for i in range(n + 1))
            if not width
            else b""
        )
        return [
            ids + draw.randbytes((width or 3) * n),
            width,
            n,
            table,
            *([bytes(2 * -(-n // 16))] * (name == "ids_in")),
        ]
    if name == "sum_counts":
        buckets = draw.randrange(9)
        return [draw.randbytes(buckets * n), b"\0\0\x80\x3f" * buckets, bytes(4 * n)]
    if name == "tail_probabilities":
        counts = b"".join(draw.choice((b"\0\0\x80\x3f", b"\0\0\0\0")) for _ in range(n))
        return [counts, b"\0\0\x80\x3f" * n, b"\0\0\x80\x3e" * n, draw.choice(FLOATS), bytes(4 * n)]
    if name.startswith(("dot", "l2")):
        d, width = draw.randrange(1, 70), {"f16": 2, "f32": 4, "_u8": 1, "_i8": 1}[name[-3:]]
        return [draw.randbytes(4 * d), draw.randbytes(n * d * width), 0, d * width, n, d, bytes(4 * n)]
    if name in ("matvec_i8", "matvec_i4"):
        d = draw.randrange(1, 70)
        pad = -(-d // 16) * 16 if name.endswith("8") else -(-d // 32) * 32
        return [bytes(2 * pad), draw.randbytes(n * (pad if name.endswith("8") else pad // 2)), n, d, bytes(4 * n)]
    if name in ("block_logits", "block_probabilities"):
        s = draw.randrange(1, 4)
        numbers = (draw.choice((b"\0\0\x80\x3f", b"\0\0\0\0")) * (n * s)) * 1
        temperature = [1.0] if name == "block_probabilities" else []
        return [draw.randbytes(4 * n * s), numbers, numbers, s, 1e-9, *temperature, bytes(4 * n), bytes(4 * n * s)]
    if name == "plan_ranges":
        most = draw.choice((1, 6, 64))
        small = b"".join(draw.randrange(1 << 12).to_bytes(4, "little") for _ in range(n))
        return [small, small, bytes(draw.randrange(4) for _ in range(n)), draw.randrange(1 << 20), most,
                bytes(8 * most), bytes(n * (most + 1))]  # fmt: skip
    if name == "plan_queries":
        sizes = [draw.randrange(1, 1 << 20) for _ in range(n)]
        at = b"".join(sum(sizes[:i]).to_bytes(8, "little") for i in range(n))
        p = b"".join(draw.choice((0, 0, draw.randrange(1 << 12))).to_bytes(4, "little") for _ in range(2 * n))
        nbytes = b"".join(size.to_bytes(4, "little") for size in sizes)
        return [p, nbytes, at, bytes(draw.randrange(4) for _ in range(n)), draw.randrange(1 << 16),
                draw.choice((1, 6, 12, 64)), bytes(draw.choice((0, 99, 9999))), bytes(8), bytes(2 * n),
                bytes(kernels.plan_queries_size(n))]  # fmt: skip
    if name in ("find_answered", "count_right"):
        block = b"".join(draw.randrange(3).to_bytes(4, "little") for _ in range(2 * n))
        own = [block, b"\xff" * (8 * n), bytes(6), 2, n, 3, draw.randrange(9)]
        return [*own, bytes(2 * n)] if name == "find_answered" else [*own, block, block, n, bytes(8)]
    if name == "additive_encode":
        parts, width = draw.randrange(1, 5), draw.randrange(1, 9)
        numbers = b"".join(draw.choice((b"\0\0\x80\x3f", b"\0\0\0\xc0")) for _ in range(width * max(n, 16 * parts)))
        return [numbers, numbers[: 64 * parts * width], n, width, parts, bytes(n * parts)]
    if name == "select_largest":
        width = draw.randrange(1, 70)
        count, numbers = draw.randrange(1, width + 1), [b"\0\0\x80\x3f", b"\0\0\0\xc0"]
        values, bias = (b"".join(draw.choice(numbers) for _ in range(size)) for size in (n * width, width))
        return [values, bias, n, width, count, bytes(4 * n * count), bytes(4 * n * count)]
    if name in ("matmul", "nearest"):
        m, depth = draw.randrange(1, 70), draw.randrange(1, 40)
        count, numbers = draw.randrange(1, m + 1), (b"\0\0\x80\x3f", b"\0\0\0\xc0", b"\0\0\xc0\x7f")
        a, b, bias = (b"".join(draw.choices(numbers, (9, 9, 1), k=size)) for size in (n * depth, m * depth, m))
        scratch = bytes(kernels.matmul_size(m, depth))
        if name == "matmul":
            return [a, b, n, m, depth, bytes(4 * n * m), scratch]
        return [a, b, bias, n, m, depth, count, bytes(4 * n * count), bytes(4 * n * count), scratch]
    if name == "scalar_encode":
        count = draw.randrange(256)
        return [draw.randbytes(4 * n), draw.randbytes(4 * count), n, count, bytes(n)]
    if name == "butterfly_plan":
        d, layers = 2 * draw.randrange(1, 9), draw.randrange(1, 4)
        pairs = b"".join((2 * i + 1).to_bytes(2, "little") for i in range(d // 2)) * layers
        return [pairs, draw.randbytes(len(pairs)), layers, d, bytes(4 * d + 12 * layers * (d // 2))]
    return None


def arguments(name: str, draw: Random) -> list[Any]:
    """Arguments of one call: fitting ones with perhaps one changed, or any."""
    given = fitting(name, draw) if draw.random() < 0.7 else None
    if given is None:
        makers: dict[str, Callable[[], Any]] = {
            "b": lambda: data_of(draw, length_of(draw)),
            "o": lambda: bytes(length_of(draw)),
            "B": lambda: tables_of(draw),
            "P": lambda: pool_of(draw),
            "i": lambda: integer(draw),
            "f": lambda: draw.choice(FLOATS),
        }
        return [makers[kind]() for kind in SIGNATURES[name]]
    for _ in range(draw.choice((0, 1, 1, 2))):
        at = draw.randrange(len(given))
        if isinstance(given[at], bytes):
            changed = bytearray(given[at][: draw.randrange(len(given[at]) + 1)] if draw.random() < 0.5 else given[at])
            if changed:
                changed[draw.randrange(len(changed))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
            given[at] = bytes(changed)
        elif isinstance(given[at], float):
            given[at] = draw.choice(FLOATS)
        else:
            given[at] = integer(draw) if draw.random() < 0.5 else given[at] + draw.choice((-1, 1))
    return given


def run(cases: int, seed: int, first: int, heap: bool) -> None:
    """Cases first to cases - 1; prints the number of each hundredth, and each that raises something else."""
    rooms = [Guarded() for _ in range(max(map(len, SIGNATURES.values())))]

    def held(i: int, data: bytes, writable: bool) -> Any:
        if heap:
            return bytearray(data) if writable else data
        return rooms[i].view(data, writable) if len(data) <= ROOM else data

    answered = 0
    for case in range(first, cases):
        draw = Random((seed << 32) + case)
        name = draw.choice(sorted(SIGNATURES))
        given = arguments(name, draw)
        given = [held(i, a, SIGNATURES[name][i] in "oP") if isinstance(a, bytes) else a for i, a in enumerate(given)]
        kernels.scan_path(draw.randrange(3))
        if "--case" in sys.argv:
            print(
                case, name, [len(a) if isinstance(a, bytes | bytearray | memoryview) else a for a in given], flush=True
            )
        try:
            getattr(kernels, name)(*given)
            answered += 1
        except RAISED:
            pass
        except Exception as error:
            print(f"case {case}, {name}: {type(error).__name__}: {error}", flush=True)
            raise SystemExit(1) from None
        if case % 100 == 99:
            print(f"\r{case}", end="", file=sys.stderr)
    print(f"{cases - first} calls, {answered} answered, the others raised")


def main() -> int:
    """Runs the cases in another process, and names the one that ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one alone, printed before it is run, in this process")
    parser.add_argument("--asan", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        run(options.case + 1, options.seed, options.case, options.asan)
        return 0
    if options.inside:
        run(options.cases, options.seed, 0, options.asan)
        return 0
    command = [sys.executable, __file__, "--inside", "--cases", str(options.cases), "--seed", str(options.seed)]
    environment = dict(os.environ)
    if options.asan:
        command.append("--asan")
        subprocess.run(["make", "-s", "-C", SOURCES, "asan", f"PYTHON={sys.executable}"], check=True)
        named = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
        environment |= {"LD_PRELOAD": named.stdout.strip(), "PYTHONMALLOC": "malloc",
                        "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(SOURCES / "build" / "asan")}  # fmt: skip
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode:
        last = done.stderr.rsplit("\r", 1)[-1][:2000]
        print(f"ended with status {done.returncode}, in the hundred cases after {last or 'the start'}")
    return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
