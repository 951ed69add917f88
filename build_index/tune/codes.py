"""The codes of blocks: lengths that are tried, and scans that say what they find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from ..simulate.measure import KEPT, Candidates, Scanned, block_bytes, blocks_needed, full_scans, plans
from .contract import PricedRecall, price_at
from .draft import Draft, cost_of, fits_cache, most_copies
from .fit import Task, pages_of
from .options import Options

TRIAL_LOSES = 0.02  # of the loss that the target allows, by blocks that are left out where codes are compared
CODE_BITS = (3, 4, 5, 6, 7, 8)  # a dimension, as candidates
CODED_SHARE = 0.5  # of the loss that the target allows: of codes that lose more, longer ones are tried too
MOMENT_ROWS = 60_000
RESIDUAL_ROWS = 20_000  # that tables are fitted to
RESIDUAL_BYTES = 64 << 20  # of them, at most


def sizes_of(task: Task, layout: Layout, codec: Codec) -> Ints:
    """(B) bytes of the blocks with these codes."""
    return block_bytes(layout.sizes(), codec.code_bytes, task.id_bytes, task.rows.dimension)


def scan(
    task: Task, layout: Layout, codec: Codec, held: HeldOutQueries, phase: str, p: P, kept: int = KEPT,
    codes: KeptCodes | None = None,
) -> Candidates:  # fmt: skip
    """What the codes find for held-out rows, in blocks that a plan may read. codes: see full_scans."""
    return _scans(task, layout, codec, phase, [Scanned(held, p, kept, task.scanned)], codes)[0]


def scan_prices(
    task: Task, layout: Layout, codec: Codec, held: HeldOutQueries, phase: str, p: P, kept: int = KEPT,
    codes: KeptCodes | None = None,
) -> tuple[Candidates, Candidates | None]:  # fmt: skip
    """The same for rows that prices are measured on, and for those of task.deep."""
    wanted = [Scanned(held, p, kept, task.scanned), *([] if task.deep is None else [task.deep])]
    candidates, *deep = _scans(task, layout, codec, phase, wanted, codes)
    return candidates, deep[0] if deep else None


def _scans(
    task: Task, layout: Layout, codec: Codec, phase: str, wanted: list[Scanned], codes: KeptCodes | None
) -> list[Candidates]:
    if sizes_of(task, layout, codec).sum() <= SMALL_BYTES:  # a plan may read all of them
        wanted = [replace(one, all_read=True) for one in wanted]
    return full_scans(task.rows, layout, codec, wanted, task.progress.phase(phase), codes)


def keep_codes(task: Task, layout: Layout, codec: Codec) -> KeptCodes:
    """Room for the codes of all blocks."""
    return KeptCodes(codec, layout.sizes(), task.options.memory_bytes, task.rows.stored.folder)


@dataclass(frozen=True)
class Coded:
    """Blocks with a code; what it found for the tuning rows, and the price that reaches the target on them."""

    layout: Layout
    codec: Codec
    candidates: Candidates
    price: int
    codes: KeptCodes | None  # of all blocks, where they are kept


def coder_of(task: Task, draft: Draft) -> tuple[list[tuple[int, bool]], int, Callable[[int], Codec]]:
    """The lengths that _code_lengths names; along how many axes there is anything; and codes of a length."""
    rows, options = task.rows, task.options
    moments = second_moments(rows, task.sample, draft.layout)
    residuals = residuals_of(rows, task.sample, draft.layout)
    own = options.rotation is None and options.codec != "lrsq"  # codecs with directions of their own
    basis = None if own else fit(options.rotation, moments[0], options.seed)
    axes = basis.live if basis else rows.dimension

    def coded(code_bytes: int) -> Codec:
        return CODECS[options.codec](*moments, code_bytes, residuals, basis)

    return _code_lengths(rows, axes, draft.layout.blocks, task.id_bytes, options), axes, coded


def choose_codes(task: Task, draft: Draft, p: P) -> list[Coded]:
    """Codes that reach the target, by modelled time."""
    rows, tune, options = task.rows, task.tune, task.options
    reached: list[tuple[float, Coded]] = []
    lengths, _, coder = coder_of(task, draft)
    needed = blocks_needed(p, draft.layout, tune.truth.rows[:, : task.k], TRIAL_LOSES * (1 - options.recall))
    task = replace(task, scanned=needed)
    short = False  # whether the code loses so much that routing must find nearly everything
    for code_bytes, regular in lengths:
        fits = fits_cache(rows, draft.layout.blocks, 0.0, code_bytes, task.id_bytes, options)
        if reached and not regular and not (short and fits):
            break
        layout, codec = fit_copies(task, draft, code_bytes), coder(code_bytes)
        codes = keep_codes(task, layout, codec)
        candidates = scan(task, layout, codec, tune, f"codes of {code_bytes} bytes", p, codes=codes)
        sizes = block_bytes(layout.sizes(), code_bytes, task.id_bytes, task.rows.dimension)
        at = price_at(PricedRecall(candidates, p, sizes), task.k, options.recall)
        ceiling = float(candidates.recall(np.ones_like(p, bool), task.k).mean())
        row: dict[str, Any] = {
            "blocks": layout.blocks, "copies_share": round(layout.copies / rows.count, 4), "code_bytes": code_bytes,
            "all_blocks_recall": round(ceiling, 4),
        }  # fmt: skip
        if at is None:
            task.tried.append(row | {"reaches_target": False})
            continue
        reads = replace(plans(p, sizes, at), pages=pages_of(rows, layout, tune.queries))
        task.tried.append(row | cost_of(reads))
        ms = float(reads.ms.mean())
        if reached and ms < min(one for one, _ in reached):  # of one length, so that memory holds them
            reached = [(one, replace(coded, codes=None)) for one, coded in reached]
        best = all(one.codes is None for _, one in reached)
        reached.append((ms, Coded(layout, codec, candidates, at, codes if best else None)))
        short = 1 - ceiling > CODED_SHARE * (1 - options.recall)
        if len(reached) > 1 and reached[-1][0] > reached[-2][0]:
            break  # what longer codes save in blocks no longer pays for their bytes
    return [coded for _, coded in sorted(reached, key=lambda r: r[0])]


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
