"""Vantage's kernels: one C source (kernels), as Wasm for the Worker and as machine code for CPython.

Buffers: whatever has C-contiguous bytes (bytes, bytearray, memoryview, array, numpy), at any alignment,
little-endian; `out`, `tables`, `pool` and `scratch` are written in place and may not overlap another argument. A
shape `u32[n]` is a minimum number of bytes, so a longer buffer may be reused; where no other argument says how many,
the length does and must be exact ("exactly"). Arguments are positional. Rows are at most 2^31 - 1, dim at most 4096.

Results are the same bits on every machine and in Wasm. f32 means IEEE single precision, each operation rounded by
itself, in the order written here: numpy float32 gives the same bits. Tests hold all this against
tests/kernels/reference.py.

Every function raises ValueError "function: argument is ..., wants ..." for a number out of range, a buffer that is
too short or the like, and changes nothing then unless it says otherwise; TypeError for the wrong type or number of
arguments; BufferError for an output that cannot be written. Nothing is allocated.
"""

from typing_extensions import Buffer

def crc32c(data: Buffer, crc: int = 0, /) -> int:
    """CRC-32C (Castagnoli, RFC 3720) of `data`, or of all data so far when `crc` is the result for what came before.

    >>> hex(crc32c(b"6789", crc32c(b"12345")))
    '0xe3069283'
    """

def hamming(query: Buffer, codes: Buffer, n: int, width: int, out: Buffer, /) -> int:
    """out u32[n] = bits in which query u8[width] and codes u8[n][width] differ. Returns n; width 1 to 4096."""

def dot_f16(query: Buffer, rows: Buffer, offset: int, stride: int, n: int, dim: int, out: Buffer, /) -> int:
    """out f32[n] = inner products of query f32[dim] with n rows of f16[dim]. Returns n.

    Row i starts at byte offset + i stride of `rows`; stride is at least the bytes of a row. Values are widened to f32
    exactly, subnormals, infinities and NaNs included. Sixteen lanes start at 0; lane i takes dims i, i+16, ... in
    order, lane = lane + q x; then lane i + lane i+8, i+4, i+2, i+1.
    """

def dot_f32(query: Buffer, rows: Buffer, offset: int, stride: int, n: int, dim: int, out: Buffer, /) -> int:
    """As dot_f16, rows f32[dim]."""

def dot_u8(query: Buffer, rows: Buffer, offset: int, stride: int, n: int, dim: int, out: Buffer, /) -> int:
    """As dot_f16, rows u8[dim] with values 0 to 255."""

def dot_i8(query: Buffer, rows: Buffer, offset: int, stride: int, n: int, dim: int, out: Buffer, /) -> int:
    """As dot_f16, rows i8[dim] with values -128 to 127."""

def l2_f16(query: Buffer, rows: Buffer, offset: int, stride: int, n: int, dim: int, out: Buffer, /) -> int:
    """As dot_f16, but squared distances: d = q - x, lane = lane + d d."""

def l2_f32(query: Buffer, rows: Buffer, offset: int, stride: int, n: int, dim: int, out: Buffer, /) -> int:
    """As l2_f16, rows f32[dim]."""

def l2_u8(query: Buffer, rows: Buffer, offset: int, stride: int, n: int, dim: int, out: Buffer, /) -> int:
    """As l2_f16, rows u8[dim] with values 0 to 255."""

def matvec_i8(query: Buffer, rows: Buffer, n: int, dim: int, out: Buffer, /) -> int:
    """out i32[n] = inner products of query i16[pad] and rows i8[n][pad], pad = dim rounded up to 16. Returns n.

    Exact modulo 2^32; a query scaled to a norm of at most 32767 never wraps, as rows have at most 128 sqrt(4096) =
    2^13. The padding of the query must be zeros.
    """

def matvec_i4(query: Buffer, rows: Buffer, n: int, dim: int, out: Buffer, /) -> int:
    """out i32[n] = inner products of query i16[32 g] and n rows of 4-bit values, g = ceil(dim / 32). Returns n.

    A row is g groups of 16 bytes: the low nibble of byte j of group k is dim 32 k + j, the high nibble dim 32 k + 16
    + j; a value is its nibble - 8. Modulo 2^32 as in matvec_i8. The padding of the query must be zeros.
    """

def block_logits(
    dots: Buffer, scales: Buffer, weights: Buffer, subs: int, alpha: float, out: Buffer, scratch: Buffer, /
) -> int:
    """out exactly f32[blocks] = l of each block as block_probabilities has it, -inf where all weights are. Returns
    blocks.

    Raises ValueError for a logit that is NaN or +inf; out and scratch then hold no meaning.
    """

def block_probabilities(
    dots: Buffer, scales: Buffer, weights: Buffer, subs: int, alpha: float, temperature: float, out: Buffer,
    scratch: Buffer, /,
) -> int:  # fmt: skip
    """out exactly u32[blocks] = probability of each block in units of 2^-20. Returns blocks.

    dots exactly i32[blocks][subs]; scales, weights exactly f32[blocks][subs]; scratch f32[blocks][subs]; subs 1 to
    65536. All f32, in this order, unless it says f64:
      logit = weight + (alpha scale) f32(dot), or -inf for a weight of -inf ("no such sub-centroid")
      M = largest logit of the block;  sum of exp(logit - M), left to right;  l = M + log(sum);  t = temperature l
      T = largest t;  e = exp(t - T);  Z = sum of e in f64, in block order
      out = u32(f64(e) / Z x 2^20 + 0.5), both operations in f64
    exp and log are polynomials of our own, within 1 ulp; exp is 0 below -87. Their steps stand
    in route.c and, for numpy, in tests/kernels/reference.py. Raises ValueError for a logit that is NaN or +inf, for
    temperature <= 0, and when no block has a finite t (all weights -inf); out and scratch then hold no meaning.
    """

def sum_counts(table: Buffer, weights: Buffer, out: Buffer, /) -> int:
    """out exactly f32[blocks] += weights[j] count(table[j][b]), bucket by bucket in f32. Returns blocks.

    weights exactly f32[buckets]; table exactly u8[buckets][blocks]. count(0) = 0, count(1) = 1, count(i + 1) =
    count(i) x 1.25 in f32. A bucket of weight 0 is passed over.
    """

def tail_probabilities(counts: Buffer, base: Buffer, sigma: Buffer, wanted: float, out: Buffer, /) -> int:
    """out exactly u32[blocks] = the share of answers that each block is expected to hold, in units of 2^-20.

    counts, base, sigma exactly f32[blocks], counts >= 0, sigma > 0. Rows of a block have scores that are normal around
    base: above(b, T) = counts[b] Q((T - base[b]) / sigma[b]) of them are above T, all f32, Q as Abramowitz and Stegun
    26.2.17 have it. 32 halvings of [least base - 6 sigma, largest base + 6 sigma] of blocks with a count find T, the
    largest of which the sum in f64 is above `wanted`. out = u32(f64(above(b, T)) / sum x 2^20 + 0.5), 1 at least where
    there is a count. Returns blocks. Raises ValueError for numbers that are none of these; out then has no meaning.
    """

def plan_ranges(
    p: Buffer, nbytes: Buffer, flags: Buffer, price: int, ranges_max: int, out: Buffer, scratch: Buffer, /
) -> int:
    """The at most ranges_max (1 to 64) ranges [a, b) of blocks with the largest total value. Returns how many.

    p, nbytes exactly u32[B]; flags exactly u8[B], B 1 to 2^20; out u32[ranges_max][2], ascending; scratch
    u8[B][ranges_max + 1]. A block is worth (flags & 2 ? 0 : p << 24) - price nbytes; all blocks in a range count.
    With flags & 1 no range continues from the block before into this one (a new object begins), though a range may
    start there right after another. Exact, by dynamic programming in O(B ranges_max). Of equal plans: the fewest
    ranges, so every range is worth more than 0; then the one whose last range ends earliest; then whose last range
    starts latest; then likewise for the range before it, and so on. Raises ValueError when sum(p) << 24 or price
    sum(nbytes) reaches 2^60.
    """

def lrsq_tables_size(code_bytes: int, fine: int, /) -> int:
    """Bytes of the tables for codes of code_bytes, 1 to 7680: 288 + 32 code_bytes + 1024 fine; see lrsq_tables."""

def lrsq_tables(
    ys: Buffer, fields: Buffer, starts: Buffer, levels: Buffer, scale: float, fine: int, tables: Buffer, /,
) -> int:  # fmt: skip
    """Fills the scan tables of one query: entries for the 16 values of each nibble. Returns code_bytes.

    ys exactly f32[axes], the rotated query. fields exactly [F] of `<HBBI` (axis u16, shift u8, width u8 1 to 4,
    level_at u32): bits shift to shift + width - 1 of a nibble value v pick levels[level_at + bits]. starts exactly
    u32[nibbles + 1]: nibble n has the fields starts[n] to starts[n + 1] - 1; nibbles is even, code_bytes = nibbles / 2.
    levels f32[]. scale turns a score into an integer, see lrsq_scan. The first `fine` segments, at most 16, have 16-bit
    entries. All f32 unless it says f64:
      val[n][v] = 0 + y level + y level ... in the order of its fields;  low[n] = least;  range[n] = largest - low[n]
      a segment g is 64 nibbles (32 code bytes), the last may be shorter;  range[g] = largest range[n] in it
      unit = (largest range) x f32(1 / 65280), or 1 if that is 0
      shift[g] = 0 if g < fine, else the least s in 0 to 8 with range[g] <= 255 (unit 2^s), else 8
      T[n][v] = min(top, floor((val[n][v] - low[n]) / (unit 2^shift[g]) + 0.5)), top = 65535 if g < fine, else 255
      bias = f32 of the f64 sum of low[n], in order
    tables, lrsq_tables_size(code_bytes, fine) bytes: u32 code_bytes, f32 unit, f32 bias, f32 scale, u32 fine, 12 zero
    bytes, u8 shifts[256] (0 beyond the last pass), then passes of 1024 bytes (the last may be shorter), one for each
    segment and two for a fine one: the low bytes of T (shift 0), then its high bytes (shift 8). In a pass the table of
    code byte j of the segment is at 32 j for its low nibble and at 32 j + 16 for its high nibble. Raises ValueError for
    a field or start out of range, and for ys or sums that are not finite; tables is then unchanged.
    """

def filter_rows_size(n: int, /) -> int:
    """Bytes of the scratch of `filter_rows` for n rows."""

def filter_rows(plane: Buffer, n: int, columns: int, program: Buffer, out: Buffer, scratch: Buffer, /) -> int:
    """out u8[2 ceil(n / 16)] = bit i for each of the n rows that a filter takes. Returns how many.

    plane: of so many columns, as vantage.format.columns has it, whose padding ends the buffer. program: exactly as
    vantage.filter.program has it, of at most 16 sets at once. scratch: filter_rows_size(n) bytes. Raises ValueError too
    for a column that the plane lacks, a body that ends outside of the plane, keys that do not rise, a code past them,
    spans that do not rise, and steps that do not leave one set.
    """

def column_counts(plane: Buffer, n: int, columns: int, column: int, mask: Buffer, out: Buffer, /) -> int:
    """out i64: rows of the mask that have a value in a column; then pairs, a key and how many rows of the mask have it.
    Returns how many pairs.

    plane, columns: as in filter_rows. mask u8[2 ceil(n / 16)]: bit i for row i. Keys rise and are there once, but for
    a plain column, which has a pair for each row, in their order. A row with a list counts under each of its values.
    out has room for n pairs, or as many as a column has entries in its table. Raises ValueError as filter_rows does.
    """

def dead_rows(data: Buffer, rows_at: int, n: int, dead: Buffer, out: Buffer, /) -> int:
    """out u8[2 ceil(n / 16)] = bit i for each of the rows u32[n] at byte rows_at of `data` that is dead. Returns how
    many are.

    dead: bit r % 8 of byte r / 8 for row r; rows beyond it are not.
    """

def ids_add(ids: Buffer, width: int, n: int, table: Buffer, /) -> int:
    """Adds n ids to a table of them. Returns how many were not there.

    ids: n of `width` bytes (1 to 32), or of width 0 u32[n + 1] ends and the bytes. NUL bytes at the end of an id do not
    count. table: u64 hashes, a power of two of them, 0 for none. Raises ValueError too where there is no room left, and
    for an id that ends outside of `ids`; those before it are in the table then.
    """

def ids_in(ids: Buffer, width: int, n: int, table: Buffer, out: Buffer, /) -> int:
    """out u8[2 ceil(n / 16)] = bit i for each of n ids whose hash is in a table. Returns how many.

    So of those that are in it, and of others with a chance of 2^-64 for each entry. ids, table: as in ids_add.
    """

def lrsq_scan(
    data: Buffer, ranges_at: int, codes_at: int, f_at: int, h_at: int, rows_at: int, n: int, base: float, place: int,
    tables: Buffer, pool: Buffer, mask: Buffer = ..., /,
) -> int:  # fmt: skip
    """Scores the n rows of a block and offers them to the pool with (row number, place, index in block). Returns n.

    mask: u8[2 ceil(n / 16)], bit i for row i: those without one are not offered; without it all are.

    Places are bytes of `data`. ranges_at: f32 f_lo, f_step, h_lo, h_step. codes_at: ceil(n / 16) groups of 16 rows,
    byte j of the code of row r of a group at 16 j + r. f_at, h_at: u8, padded to 16 rows. rows_at: u32[n].
      S = sum over segments of (sum of T over their nibbles) << shift, an integer below 2^31
      dot = f32(S) unit + bias;  f = f_lo + f_step f32(u8);  h = h_lo + h_step f32(u8)
      score = base + (h + f dot);  v = score scale, clamped to +-2^30, NaN to -2^30;  integer = v, halves to even
    Other threads run meanwhile (not in Wasm): they may not touch the pool, which refuses their calls, nor the
    buffers.
    """

def lrsq_scan_mixed(
    data: Buffer, ranges_at: int, homes_at: int, codes_at: int, f_at: int, h_at: int, rows_at: int, n: int, blocks: int,
    bases: Buffer, place: int, tables: Buffer, pool: Buffer, mask: Buffer = ..., /,
) -> int:  # fmt: skip
    """As lrsq_scan, for rows of several blocks, 1 to 256, each with the integer that a scan of its block gives it.

    ranges_at: f32[blocks][4]; bases f32[blocks]; homes_at: u8[n], the block of each row. Returns n.
    """

def lrsq_scores(
    data: Buffer, ranges_at: int, codes_at: int, f_at: int, h_at: int, rows_at: int, n: int, base: float, place: int,
    tables: Buffer, out: Buffer, /,
) -> int:  # fmt: skip
    """out i32[n] = the integers of lrsq_scan, in row order. Returns n."""

def scan_path(most: int, /) -> int:
    """Lets scans and builders' kernels use instructions up to path `most`, 0 to 255. Returns the path they use now.

    0 the least of the machine (SSSE3, NEON, Wasm SIMD), 1 AVX2 with fused multiply-adds, 2 AVX-512 with VBMI and VNNI;
    by default the last that the processor has. All give the same bits, so this is for tests and measurements.
    """

def pool_size(capacity: int, /) -> int:
    """Bytes of a pool that keeps the best `capacity` rows, 1 to 65536: 50 to 70 bytes a row."""

def pool_reset(pool: Buffer, capacity: int, /) -> int:
    """Makes the first pool_size(capacity) bytes of `pool` an empty pool. Returns 0."""

def pool_offer(pool: Buffer, scores: Buffer, rows: Buffer, place: int, mask: Buffer = ..., /) -> int:
    """Offers rows exactly u32[n] with scores exactly i32[n], place u32 and index 0 to n - 1. Returns n.

    mask: u8[ceil(n / 8)], bit i for row i: those without one are not offered; without it all are.
    """

def pool_finish(pool: Buffer, out: Buffer, /) -> int:
    """out = the best distinct rows over all that was offered since the reset, in order. Returns how many.

    An entry is 16 bytes: i32 score, u32 row, u32 place, u32 index; out has room for `capacity`, fewer may be found. A
    row counts once, with its highest score and of equals the lowest place, then the lowest index. Order: score
    descending, then row ascending; the order of the offers has no influence. The pool can go on: a later finish
    includes what is offered then.
    """

def score_bounds(
    scores: Buffer, norms: Buffer, n: int, weight: float, slack: float, lower: Buffer, upper: Buffer, /,
) -> int:  # fmt: skip
    """lower, upper i32[n] = what scores i32[n] may at least and at most be, norms u8[n]. Returns n.

    error = weight f32(norm) + slack, both not negative, in f32; off = floor(error) + 1; lower = score - off and upper =
    score + off, cut to i32. An error of 2^30 or more, or a score of +-2^30 or beyond: lower -2^31, upper 2^31 - 1.
    """

def butterfly_plan(partners: Buffer, tangents: Buffer, layers: int, dim: int, plan: Buffer, /) -> int:
    """plan u8[4 dim + 12 layers floor(dim/2)] of layers of turns of disjoint pairs. Returns the number of turns.

    A layer has ceil(dim/2) entries of partners u16 and tangents i16: the k-th is for the lowest coordinate i that no
    earlier pair of the layer has, pairs it with partner j > i, and turns both by the angle whose tangent is t =
    tangent / 16384, from -1 to 1: (x_i, x_j) -> c (x_i + t x_j, x_j - t x_i), c = 1 / sqrt(1 + t t). Where dim is
    odd, one entry of each layer is i itself with tangent 0: it stays. layers 1 to 200.
    In the plan c is put off: scale[i], f64, starts at 1; of a turn, ratio = scale[j] / scale[i], toward = f32(t ratio),
    back = f32(t / ratio), then both scales are multiplied by c; f32(scale) comes first. Raises ValueError for an entry
    that is no pair; plan then holds no meaning.
    """

def butterfly_turn(
    vector: Buffer, plan: Buffer, layers: int, dim: int, axes: Buffer, n: int, out: Buffer, /
) -> int:  # fmt: skip
    """out f32[n] = coordinates axes u16[n] of vector f32[dim], turned by a plan of as many layers and dims. Returns n.

    All f32, a turn after the other: (x_i, x_j) = (x_i + toward x_j, x_j - back x_i); at the end x[axis] scale[axis].
    n at most 4096. Raises ValueError for a plan or an axis that is outside; out then holds no meaning.
    """

# Of builders alone: they are no part of the Worker's module.

def plan_queries_size(blocks: int, /) -> int:
    """Bytes of scratch for plan_queries over so many blocks, 1 to 2^20."""

def plan_queries(
    p: Buffer, nbytes: Buffer, at: Buffer, flags: Buffer, price: int, ranges_max: int, lengths: Buffer, counts: Buffer,
    read: Buffer, scratch: Buffer, /,
) -> int:  # fmt: skip
    """Plans Q queries as vantage.search.plan.ranges_of does from its items_of; bit for bit. Returns how many ranges.

    p exactly u32[Q][B], probabilities; nbytes exactly u32[B] and at exactly u64[B], bytes of blocks and where each
    begins in the one object that holds all in order; flags exactly u8[B] or u8[Q][B] and price as for plan_ranges;
    ranges_max 1 to 64. counts u32[Q] = ranges of each query; lengths u32[] = their bytes, query after query: those that
    there is no room for are left out. read u8[Q][B] = 1 where a block is read. Raises ValueError as plan_ranges does.
    """

def find_answered(
    block: Buffer, twin: Buffer, read: Buffer, n: int, copies: int, blocks: int, most: int, out: Buffer, /
) -> int:
    """out u8[n][copies] = 1 for a copy of a row that answers: of the first `most` rows with a copy read, the first one.

    Of n queries: block i32[n][copies] of each copy, best first, -1 for none; twin i32[n][copies], the copy before it of
    the same row, -1 for none; read u8[n][blocks]. Returns n; copies 1 to 65536. Raises ValueError for a block or a twin
    out of range; out then holds no meaning.
    """

def count_right(
    block: Buffer, twin: Buffer, read: Buffer, n: int, copies: int, blocks: int, most: int, rank: Buffer,
    better: Buffer, depth: int, out: Buffer, /,
) -> int:  # fmt: skip
    """out u32[n] = how many copies that answer, as in find_answered, are right. Returns n.

    rank i32[n][copies]: rows that score better than a copy's, -1 where it is no neighbour; better i32[n][depth]: the
    same of the neighbours sought, -1 for none. Of c >= 0 there, and l the last of these: right are ranks below l, and
    of those that are l as many as c - l, c at least 1.
    """

def select_largest(
    values: Buffer, bias: Buffer, n: int, width: int, count: int, at: Buffer, largest: Buffer, /
) -> int:  # fmt: skip
    """largest f32[n][count] = the largest of each row of values f32[n][width] + bias f32[width], falling. Returns n.

    at u32[n][count]: where each stands in its row; of equal ones the first is kept, and is before the others. count at
    least 1, at most width and 1024; no number is NaN.
    """

def matmul_size(m: int, depth: int, /) -> int:
    """Bytes of scratch for matmul and nearest: about 1 MiB and 400 bytes a column, less of few; depth 1 to 65536."""

def matmul(a: Buffer, b: Buffer, n: int, m: int, depth: int, out: Buffer, scratch: Buffer, /) -> int:
    """out f32[n][m] = a f32[n][depth] times the transpose of b f32[m][depth]. Returns n.

    An element is ((0 + a_0 b_0) + a_1 b_1) + ..., a product and its sum rounded once, together (fusedMultiplyAdd of
    IEEE 754), so its bits depend on its own row of a and of b alone. By the path that scan_path chooses; slow on an
    x86-64 processor without AVX2. scratch u8[matmul_size(m, depth)]. A NaN may have any payload. Other threads run
    meanwhile: they may not touch the buffers.
    """

def nearest(
    x: Buffer, centres: Buffer, bias: Buffer, n: int, m: int, depth: int, count: int, at: Buffer, closeness: Buffer,
    scratch: Buffer, /,
) -> int:  # fmt: skip
    """at, closeness [n][count] = select_largest(matmul(x, centres), bias), which lies nowhere as a whole. Returns n.

    x f32[n][depth]; centres f32[m][depth], bias f32[m]; the rest as of these two.
    """

def matmul_for_xla() -> object:
    """A capsule with matmul as a handler of XLA's foreign functions (version 0.3 of their interface), for jax.ffi.

    It takes a f32[n][depth] and b f32[m][depth], and gives out f32[n][m] and, of no use afterwards, scratch
    u8[matmul_size(m, depth)]; other arrays are an error of XLA.
    """

def additive_encode(vectors: Buffer, words: Buffer, n: int, width: int, parts: int, out: Buffer, /) -> int:
    """out u8[parts][n]: of each part the row whose sum lies near to a vector. Returns n; parts 1 to 4, width to 4096.

    vectors f32[width][n]; words f32[parts][16][width]. Numbers of f32, sums from 0 in the order of the width:
      half = 0.5 (sum of word word);  overlap = sum of word word of two parts;  gain = (0 - half) + x word + x word ...
    Beam search: part by part, each sum so far (its score first 0) is tried with all rows, score = (score + gain) -
    overlap with the part 0 row, - part 1 row, ...; its lowest 8 bits become 16 (place of that sum) + row, which tells
    equals apart. The 16 of largest score are kept, in order; the best of the last part is taken. By the path that
    scan_path chooses, with the same result. Raises ValueError for a number beyond +-2^40.
    """

def scalar_encode(values: Buffer, cuts: Buffer, n: int, count: int, out: Buffer, /) -> int:
    """out u8[n] = how many of the cuts f32[count], rising, are below values f32[n]. Returns n; count at most 255."""
