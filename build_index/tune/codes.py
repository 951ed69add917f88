"""The codes of blocks: lengths that are tried, and scans that say what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.search.plan import SMALL_BYTES

from ..blocks.layout import Layout
from ..codecs import CODECS
from ..codecs.kept import KeptCodes
from ..codecs.planes import Codec
from ..codecs.rotations import fit
from ..ingest.rows import F32, Ints, Rows, temper
from ..simulate.edge import HeldOutQueries, P
from ..simulate.measure import Candidates, Scanned, block_bytes, blocks_needed, full_scans, plans
from .contract import PricedRecall, price_at
from .draft import Draft, cost_of, fits_cache, most_copies
from .fit import Task, pages_of
from .options import Options
from .pilot import Pilot, score_error

TRIAL_LOSES = 0.02  # of the loss that the target allows, by blocks that are left out for the tuning rows
CODE_BITS = (3, 4, 5, 6, 7, 8)  # a dimension, as candidates
CODED_SHARE = 0.5  # of the loss that the target allows: of codes that lose more, longer ones are tried too
MOMENT_ROWS = 60_000
RESIDUAL_ROWS = 20_000  # that tables are fitted to
RESIDUAL_BYTES = 64 << 20  # of them, at most


def sizes_of(task: Task, layout: Layout, codec: Codec) -> Ints:
    """(B) bytes of the blocks with these codes."""
    return block_bytes(layout.sizes(), codec.code_bytes, task.id_bytes, task.rows.dimension)


@dataclass(frozen=True)
class Found:
    """What codes find, in blocks that a plan may read: for the tuning rows, for those that prices are measured on, and
    for those of task.deep.
    """

    tune: Candidates
    held: Candidates
    deep: Candidates | None = None


def scan(task: Task, codes: KeptCodes, layout: Layout, phase: str, wanted: list[Scanned], deep: bool = True) -> Found:
    """Scans all blocks for tuning rows and for those of prices, and, as these keep so much more, by themselves for
    those of task.deep.

    codes: see full_scans.
    """
    if sizes_of(task, layout, codes.codec).sum() <= SMALL_BYTES:  # a plan may read all of them
        wanted = [replace(one, all_read=True) for one in wanted]
    progress = task.progress.phase(phase)
    tune, held = full_scans(task.rows, layout, codes.codec, wanted, progress.part(0, 0.8), codes)
    if task.deep is None or not deep:
        return Found(tune, held)
    [kept] = full_scans(task.rows, layout, codes.codec, [task.deep], progress.part(0.8, 1), codes)
    return Found(tune, held, kept)


def keep_codes(task: Task, layout: Layout, codec: Codec) -> KeptCodes:
    """Room for the codes of all blocks."""
    return KeptCodes(codec, layout.sizes(), task.options.memory_bytes, task.rows.stored.folder)


@dataclass(frozen=True)
class Coder:
    """Codes of any length for a draft's blocks, all along the same axes, so many.

    lengths: bytes by rising length, and whether each is regular: see _code_lengths.
    """

    lengths: list[tuple[int, bool]]
    axes: int
    train: Callable[[int], Codec]


def coder_of(task: Task, draft: Draft) -> Coder:
    """What codes are trained by is measured once, and each length is trained once."""
    rows, options = task.rows, task.options
    moments = second_moments(rows, task.sample, draft.layout)
    residuals = residuals_of(rows, task.sample, draft.layout)
    own = options.rotation is None and options.codec != "lrsq"  # codecs with directions of their own
    basis = None if own else fit(options.rotation, moments[0], options.seed)
    axes = basis.live if basis else rows.dimension

    @cache
    def trained(code_bytes: int) -> Codec:
        return CODECS[options.codec](*moments, code_bytes, residuals, basis)

    return Coder(_code_lengths(rows, axes, draft.layout.blocks, task.id_bytes, options), axes, trained)


@dataclass(frozen=True)
class Coded:
    """Blocks with a code, what it finds, and the price that reaches the target on the tuning rows."""

    layout: Layout
    codec: Codec
    found: Found
    price: int
    codes: KeptCodes


def choose_codes(
    task: Task, draft: Draft, coder: Coder, pilot: Pilot, p: P, calibration: HeldOutQueries, p_held: P
) -> Iterator[Coded]:
    """Codes that reach the target on the tuning rows, by the time that a pilot expects of their lengths.

    Rows are encoded, and scanned for tuning and calibration rows, as one is asked for.
    """
    lost = TRIAL_LOSES * (1 - task.options.recall)
    needed = blocks_needed(p, draft.layout, task.tune.truth.rows[:, : task.k], lost)
    for code_bytes in _expected(task, draft, coder, pilot, p):
        layout, codec = fit_copies(task, draft, code_bytes), coder.train(code_bytes)
        codes = keep_codes(task, layout, codec)
        wanted = [Scanned(task.tune, p, most=needed), Scanned(calibration, p_held, most=task.scanned)]
        found = scan(task, codes, layout, f"codes of {code_bytes} bytes", wanted)
        sizes = sizes_of(task, layout, codec)
        at = price_at(PricedRecall(found.tune, p, sizes), task.k, task.options.recall)
        row = _row(task, layout, code_bytes) | {"all_blocks_recall": _ceiling(task, found.tune, p)}
        if at is None:
            task.tried.append(row | {"reaches_target": False})
            continue
        reads = replace(plans(p, sizes, at), pages=pages_of(task.rows, layout, task.tune.queries))
        task.tried.append(row | cost_of(reads))
        yield Coded(layout, codec, found, at, codes)


def _row(task: Task, layout: Layout, code_bytes: int) -> dict[str, Any]:
    """Of the table of what was tried."""
    share = round(layout.copies / task.rows.count, 4)
    return {"blocks": layout.blocks, "copies_share": share, "code_bytes": code_bytes}


def _ceiling(task: Task, candidates: Candidates, p: P) -> float:
    return round(float(candidates.recall(np.ones_like(p, bool), task.k).mean()), 4)


def _expected(task: Task, draft: Draft, coder: Coder, pilot: Pilot, p: P) -> list[int]:
    """Code lengths by the modelled time that the pilot expects; then those of which it expects too low a recall."""
    rows, options = task.rows, task.options
    reached, rest, error_of = list[tuple[float, int]](), list[int](), expect_errors(task, draft, coder)
    short = False  # whether the code loses so much that routing must find nearly everything
    for code_bytes, regular in coder.lengths:
        fits = fits_cache(rows, draft.layout.blocks, 0.0, code_bytes, task.id_bytes, options)
        if reached and not regular and not (short and fits):
            break
        layout = fit_copies(task, draft, code_bytes)
        candidates = pilot.candidates(layout, error_of(code_bytes), options.seed)
        sizes = block_bytes(layout.sizes(), code_bytes, task.id_bytes, rows.dimension)
        recall_at, ceiling = PricedRecall(candidates, p, sizes), _ceiling(task, candidates, p)
        at = price_at(recall_at, task.k, options.recall)
        row = _row(task, layout, code_bytes) | {"expected_recall": ceiling}
        if at is None:
            task.tried.append(row)
            rest.append(code_bytes)
            continue
        reads = replace(recall_at.reads(at, slice(None)), pages=pages_of(rows, layout, task.tune.queries))
        ms = float(reads.ms.mean())
        task.tried.append(row | {"expected_bytes": round(reads.nbytes), "expected_ms": round(ms, 3)})
        short = 1 - ceiling > CODED_SHARE * (1 - options.recall)
        reached.append((ms, code_bytes))
        if len(reached) > 1 and reached[-1][0] > reached[-2][0]:
            break  # what longer codes save in blocks no longer pays for their bytes
    return [code_bytes for _, code_bytes in sorted(reached)] + rest


def expect_errors(task: Task, draft: Draft, coder: Coder) -> Callable[[int], float]:
    """How far scores by codes of a length are off: measured at two lengths, between and beyond them on a line through
    their logarithms, as each bit of a code divides its error by as much.
    """
    regular = [code_bytes for code_bytes, regular in coder.lengths if regular]
    known = sorted({regular[len(regular) // 3], regular[-1]})
    errors = [score_error(task.rows, draft.layout, coder.train(one), task.tune) for one in known]
    logs = np.log(np.maximum(errors, 1e-30))
    slope = (logs[-1] - logs[0]) / max(known[-1] - known[0], 1)
    return lambda code_bytes: float(np.exp(logs[0] + slope * (code_bytes - known[0])))


def fit_copies(task: Task, draft: Draft, code_bytes: int) -> Layout:
    """As many copies, up to what routing chose or more, as the cache holds beside codes of this length, if it does."""
    rows, blocks, options = task.rows, draft.layout.blocks, task.options
    if options.copies_share is not None or not draft.layout.copies:
        return draft.layout
    if not fits_cache(rows, blocks, 0.0, code_bytes, task.id_bytes, options):
        return draft.layout
    return draft.with_share(most_copies(rows, blocks, code_bytes, task.id_bytes, options))


def _code_lengths(rows: Rows, axes: int, blocks: int, id_bytes: float, options: Options) -> list[tuple[int, bool]]:
    """Code lengths by rising bytes; whether each is regular, or there in case that no shorter one reaches the recall.

    axes: how many directions there is anything along. Regular are 3 to 6 bits each; where some of them let the index
    fit the cache, those and the longest that fits.
    """
    lengths = sorted({max(4, int(axes * bits / 8) // 4 * 4) for bits in CODE_BITS})
    fitting = [c for c in range(lengths[0], lengths[-1], 4) if fits_cache(rows, blocks, 0.0, c, id_bytes, options)]
    if not fitting:
        return [(c, i < 4) for i, c in enumerate(lengths)]
    longest = min(fitting[-1], lengths[min(3, len(lengths) - 1)])
    return [(c, c <= longest) for c in sorted({*lengths, longest})]


def second_moments(rows: Rows, sample: Ints, layout: Layout) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(d, d) second moments of the sample's residuals to the stored centres, and of its rows."""
    used = sample[:: max(1, len(sample) // MOMENT_ROWS)]
    residual, whole = np.zeros((2, rows.dimension, rows.dimension))
    for low in range(0, len(used), 8192):
        part = used[low : low + 8192]
        x = rows.take(part)
        r = temper(x - layout.centres[layout.partition.home[part]]).astype(np.float64)
        residual += r.T @ r
        whole += x.T @ x
    return residual / len(used), whole / len(used)


def residuals_of(rows: Rows, sample: Ints, layout: Layout) -> F32:
    """f32 (n, d): the sample's residuals to the stored centres, evenly some of them."""
    most = min(RESIDUAL_ROWS, RESIDUAL_BYTES // (4 * rows.dimension))
    used = sample[:: -(-len(sample) // most)]
    return temper(rows.take(used) - layout.centres[layout.partition.home[used]])
