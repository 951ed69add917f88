"""Exact answers: intervals of scores, bounds of blocks, and reads until nothing unread can be among the best.

docs/exact.md derives every bound. Rounding is covered throughout: what is excluded here is worse than the answer by the
exact scores as they are computed, in f32.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import mul

from .. import kernels
from ..cost import Budget
from ..errors import InputError
from ..format import (
    FINE_MAX,
    NORMS_PLANE,
    RANGES_AT,
    SEGMENT,
    Directory,
    IndexSection,
    OpenBlock,
    Root,
    damaged,
    norms_of,
    plane_of,
)
from ..read.waves import Steps
from .filtered import Matched, Selection
from .plan import plan_extents
from .prepare import Prepared
from .rank import exact_score
from .run import Candidates, Run
from .scan import SCORE_MAX, BlockIds, Contender, LrsqScan, pool_entries

U = 2.0**-24  # f32 rounds to this share of a number
ENTRY_ERROR = 0.55  # of a table step: half of it, and what f32 rounds on the way
ROOM = 1 + 1e-6  # more than f64 and the last f32 operations round
ANGLE = 1e-6  # likewise, of a cosine
MAYBE_MAX = 8192  # rows whose intervals reach the answer, at most: more are not proven
OFF_MAX = 2.0**31  # integers; no interval is wider

_TABLES = struct.Struct("<IfffI12x")  # as kernels.lrsq_tables fills them; then a shift a pass
_RANGES = struct.Struct("<ffff")


@dataclass(frozen=True)
class Proof:
    """What excluded the rest of the index; proven says that all of it was."""

    proven: bool
    blocks_scanned: int
    blocks_excluded: int
    vectors_read: int
    rows_excluded: int


class BoundedScan(LrsqScan):
    """A scan that knows how far each score may be off, and keeps the best by their lowest and by their highest score.

    All tables have 16 bits, so that rounding their entries adds little. capacity: contenders by the score itself; most:
    rows whose k-th lowest score is wanted.
    """

    def __init__(
        self, root: Root, directory: Directory, query: Prepared, capacity: int, most: int, keys: Sequence[str] = (),
        block_ids: BlockIds | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            root, directory, 0, query, capacity, keys, block_ids,
            fine=min(FINE_MAX, -(-root.codec.code_bytes // SEGMENT)),
        )  # fmt: skip
        assert root.bounds is not None and root.centres is not None
        self._dots = array("i", bytes(4 * root.index.blocks))
        kernels.matvec_i8(query.i16, root.centres.table, root.index.blocks, root.index.dimension, self._dots)
        self.centres = root.centres
        self.bounds, self.most, self.maybe = root.bounds, most, min(MAYBE_MAX, root.index.rows)
        self.lowest = bytearray(kernels.pool_size(most))
        kernels.pool_reset(self.lowest, most)
        self.highest = bytearray(kernels.pool_size(self.maybe))
        kernels.pool_reset(self.highest, self.maybe)
        self.length = math.sqrt(math.fsum(map(mul, query.vector, query.vector)))
        rounded = [v - w * query.i16_scale for v, w in zip(query.vector, query.i16, strict=False)]
        self.i16_error = math.sqrt(math.fsum(map(mul, rounded, rounded)))
        _, unit, self.tables_bias, _, fine = _TABLES.unpack_from(self.tables)
        segments = -(-root.codec.code_bytes // SEGMENT)
        nibbles = [2 * min(SEGMENT, root.codec.code_bytes - SEGMENT * g) for g in range(segments)]
        shifts = self.tables[_TABLES.size :]
        self.steps = unit * sum(n << (0 if g < fine else shifts[g + fine]) for g, n in enumerate(nibbles))

    def centre(self, block: int) -> tuple[float, float]:
        """<v, c> of a block's centre, v the query's vector, and how far that may be off."""
        dot = self._dots[block] * (self.centres.scale[block] * self.query.i16_scale)
        return dot, self.i16_error * self.bounds.norm[block] * ROOM + 1e-12 * self.length

    def block(self, place: int, data: bytes | memoryview, *, keep: bool) -> None:
        opened = self.open(place, data, keep=keep)
        scores, lower, upper = self.intervals(place, data, opened)
        at, (mask, _) = opened.at, self.mask(place, data, opened)
        self.rows += at.n
        rows = memoryview(data)[at.rows : at.rows + 4 * at.n]
        for pool, values in ((self.pool, scores), (self.lowest, lower), (self.highest, upper)):
            kernels.pool_offer(pool, values, rows, place, *(() if mask is None else (mask,)))

    def intervals(
        self, place: int, data: bytes | memoryview, opened: OpenBlock
    ) -> tuple[array[int], array[int], array[int]]:
        """Integer scores of an extent's rows, and what each may at least and at most be."""
        at, where, block = opened.at, self.where(place), self.directory.block[place]
        norms = norms_of(plane_of(data, opened.planes, NORMS_PLANE, where), at.n, where)
        scores, lower, upper = (array("i", bytes(4 * at.n)) for _ in range(3))
        base = self.base(place)
        kernels.lrsq_scores(data, RANGES_AT, at.codes, at.f, at.h, at.rows, at.n, base, place, self.tables, scores)
        weight = self._away(block) * norms.step * self.query.unit * ROOM
        slack = self._slack(block, base, _RANGES.unpack_from(data, RANGES_AT), norms.slack, norms.spread)
        slack = slack * self.query.unit * ROOM + 0.5  # integers are rounded
        kernels.score_bounds(scores, norms.norms, at.n, min(weight, OFF_MAX), min(slack, OFF_MAX), lower, upper)
        return scores, lower, upper

    def _away(self, block: int) -> float:
        """At most the distance of the query from a block's centre."""
        dot, off = self.centre(block)
        norm = self.bounds.norm[block] * ROOM
        return math.sqrt(max(0.0, self.length * self.length - 2 * (dot - off) + norm * norm)) * ROOM

    def _slack(self, block: int, base: float, ranges: tuple[float, ...], slack: float, spread: float) -> float:
        """At most what a score of the block is off apart from its row's error norm."""
        f_lo, f_step, h_lo, h_step = ranges
        factor = max(abs(f_lo), abs(f_lo + 255 * f_step)) * ROOM
        addend = max(abs(h_lo), abs(h_lo + 255 * h_step)) * ROOM
        gamma = (self.root.rotation.roundings + 24) * U
        tables = factor * ENTRY_ERROR * self.steps
        sums = abs(base) + addend + factor * abs(self.tables_bias) + self.length * spread + tables
        centre = self.centre(block)[1] + 4 * U * self.bounds.norm[block] * self.length
        off: float = slack + centre + gamma * self.length * spread + tables + 8 * U * sums
        return off

    def ceilings(self) -> list[float]:
        """(B) at most the integer score of any row of a block, from its radius alone."""
        index, out = self.root.index, []
        for b, (radius, norm) in enumerate(zip(self.bounds.radius, self.bounds.norm, strict=True)):
            dot, off = self.centre(b)
            most = dot + off + self.length * radius
            if index.metric == "l2":
                away = max(0.0, self.length**2 - 2 * (dot + off) + (norm / ROOM) ** 2)
                beyond = max(0.0, math.sqrt(away) / ROOM - radius)
                most = (self.length**2 - beyond**2) / 2
            elif index.metric == "cosine" and norm > 1e-3:  # rows of norm 1 lie in a cap around the centre's direction
                cap = (1 + norm**2 - radius**2) / (2 * norm) - ANGLE
                if cap > 1:
                    raise damaged(f"bounds of block {b}", f"no row has norm 1 within {radius} of its centre")
                near = (dot + off) / (self.length * norm) + ANGLE
                if cap > -1 and near < cap:
                    apart = math.acos(max(-1.0, near)) - math.acos(cap)
                    most = min(most, self.length * (math.cos(apart) + ANGLE))
            out.append(max(-SCORE_MAX, most * self.query.unit * (ROOM if most > 0 else 1 / ROOM) + 1))
        return out

    def floor(self, k: int, without: int | None) -> float:
        """The integer score that at least k rows surely have; -infinity where fewer were scanned."""
        scores = [score for score, row, _, _ in pool_entries(self.lowest, self.most) if row != without]
        return scores[k - 1] if len(scores) >= k else -math.inf

    def reaching(self, least: float) -> tuple[list[Contender], bool]:
        """Rows whose score may be `least` or more, and whether that is all of them."""
        entries = list(takewhile(lambda e: e[0] >= least, pool_entries(self.highest, self.maybe)))
        return [self._contender(e) for e in entries], len(entries) < self.maybe or self.maybe == self.root.index.rows

    def _places_kept(self) -> set[int]:
        return super()._places_kept() | {place for _, _, place, _ in pool_entries(self.highest, self.maybe)}


def needed(score: float, query: Prepared, index: IndexSection, length: float, longest: float) -> float:
    """A score (1 / unit) below which a row's exact score, as rank.exact_score computes it, is worse than `score`.

    length: of query.vector; longest: no row, in the scale of the index, is longer.
    """
    gamma = (index.dimension / 16 + 12) * U
    tiny = index.dimension * 2.0**-148  # what f32 sums lose below their smallest number
    if index.metric == "cosine":
        return score - 2 * gamma * length
    if index.metric == "l2":
        distance = math.sqrt(score + tiny) * index.row_scale * (1 + 2 * gamma) + 2 * U * length
        return (length**2 - distance**2) / 2 - 1e-12 * length**2
    if not query.norm:
        return -math.inf
    return (score - tiny) * index.row_scale / query.norm - (gamma + 4 * U) * longest * ROOM


def candidates(run: Run) -> Steps[Candidates]:
    """The exact source: the proven best. What the router says without a read is scanned first."""
    most, segment = run.query.top_k + (run.query.without is not None), run.segment
    if query_filter := run.prepared.selection:
        _check_columns(query_filter, segment.root)
    assert segment.resident is not None  # bounds are of blocks whose directory is in the root
    scan = BoundedScan(segment.root, segment.resident, run.prepared, most, most, segment.keys, run.block_ids)
    return (yield from prove(run, scan))


def _check_columns(selection: Selection, root: Root) -> None:
    """Raises InputError where blocks, which exact answers are proven by, lack a column."""
    for i in sorted(selection.program.columns):
        if not root.filters[i].in_blocks:
            name = root.names[root.filters[i].attribute]
            raise InputError(
                f"{name!r} is not in the blocks, which exact answers are proven by", hint="leave exact out",
                param=f"filter.{name}",
            )  # fmt: skip


def prove(run: Run, scan: BoundedScan, *, early: bool = True) -> Steps[Candidates]:
    """Contenders with their full vectors, and the proof in the receipt; estimates where it could not read the best.

    Scans what the router plans, then all blocks whose ceiling reaches the k-th lowest score; reads the likely answers,
    then all rows that reach the worst of them. early False leaves out no block, and no row before all are scanned.
    """
    segment, query, without, done = run.segment, scan.query, run.query.without, run.done
    index, directory, live = scan.root.index, scan.directory, scan.root.live_rows
    k, some = min(run.query.top_k, live - (without is not None)), bool(query.selection or query.superseded)
    rows = query.selection.rows if query.selection else ()
    able = [i for i, block in enumerate(directory.block) if not rows or rows[block]]  # others hold no row of the filter
    ceilings = scan.ceilings()
    longest = max(map(sum, zip(scan.bounds.radius, scan.bounds.norm, strict=True)))
    vectors: dict[int, bytes] = {}
    ranked: list[Contender] = []

    def left() -> Budget:
        """For scans: two waves, half of the GETs and a quarter of the bytes are kept for full vectors."""
        spare = run.left()
        return Budget(spare.gets - run.budget.gets // 2, spare.bytes - run.budget.bytes // 4, spare.waves - 2)

    def still_open(least: float) -> list[int]:
        """Extents that were not scanned and may hold a row of this score, the likeliest first."""
        block = directory.block
        extents = [i for i in able if i not in done and (not early or ceilings[block[i]] >= least)]
        return sorted(extents, key=lambda i: (-ceilings[block[i]], i))

    def read(contenders: list[Contender]) -> Steps[bool]:
        """Whether the budget allowed the full vectors of all of them."""
        fresh = [c for c in contenders if c.row != without and c.row not in vectors]
        arrived = yield from segment.rows.vectors({c.row: c.check for c in fresh}, run.left())
        vectors.update(arrived)
        ranked.extend(c for c in fresh if c.row in arrived)
        return len(arrived) == len(fresh)

    def least() -> float:
        """The integer score that a row needs to be among the answers, by the exact scores so far."""
        scores = sorted((exact_score(vectors[c.row], query, index) for c in ranked), reverse=index.metric != "l2")
        worst = needed(scores[k - 1], query, index, scan.length, longest)
        return max(-SCORE_MAX, math.floor(worst * query.unit)) if worst > -math.inf else worst

    def proof(proven: bool, *, excluded: tuple[int, int] = (0, 0)) -> None:
        run.receipt.rows = scan.rows
        run.receipt.proof = vars(Proof(proven, len(done), excluded[0], len(vectors), excluded[1]))

    routed, _ = segment.peek(run.query, query)
    plan = segment.plan(run.query, routed, left(), query.selection)
    yield from segment.scan(run, plan, scan, 0)
    rest = still_open(scan.floor(k, without))
    if rest:
        plan = plan_extents(directory, 0, rest, segment.flags(directory, (0, 0)), left())
        yield from segment.scan(run, plan, scan, 0)
    likely = [c for c in scan.contenders(scan.capacity) if c.row != without][:k]
    every = done.issuperset(able)
    matched = None
    if query.selection is not None:
        matched = Matched(scan.matched if every else max(scan.matched, round(sum(rows))), every)
    if some and every:  # there are no more
        k = min(k, len(likely))
    if not k:
        proof(True, excluded=(0, live))
        return Candidates([], 0, True, 1.0, lambda: None, vectors, matched=matched)
    if len(likely) < k or (early and not (yield from read(likely))):
        proof(False)
        return Candidates(likely, 0, False, None, lambda: None, vectors, matched=matched)
    maybe, all_of_them = scan.reaching(least() if early else scan.floor(k, without))
    proven = (yield from read(maybe)) and all_of_them and not still_open(least())
    proof(proven, excluded=(len(directory) - len(done), live - len(vectors)) if proven else (0, 0))
    recall = 1.0 if proven else None
    if len(ranked) < k:
        return Candidates(likely, 0, proven, recall, lambda: None, vectors, matched=matched)
    return Candidates(ranked, len(ranked), proven, recall, lambda: None, vectors, matched=matched)
