"""An index in memory whose rows come and go: their blocks, copies and codes, and which of them are to be made anew."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vantage.errors import InputError
from vantage.format import TwoLevelSection

from .blocks.copies import COPY_RULES, Copies
from .blocks.layout import index_section
from .blocks.partition import Partition, homes
from .codecs.planes import Encoded, encode_blocks
from .context import BuildContext
from .ingest.arrays import Arrays, Ids
from .ingest.attributes import are_long
from .ingest.rows import NORM_MAX, Ints, Rows
from .routers import ROUTERS
from .simulate.edge import prepare_rows, probabilities
from .tasks.pickling import packed
from .tune.choose import Choice
from .tune.living import Held, Scale, begin, chosen, filled, follow, nearest_in, without
from .tune.options import Options
from .write.contents import Contents, check_blocks
from .write.index import write_index
from .write.manifest import manifest_of
from .write.vectors import stored_values

MEASURED_ROWS = 20_000  # of those that were fitted: how near they lie to their centres, which of them have copies

I32 = npt.NDArray[np.int32]


class MutableIndex:
    """Rows in memory with the choice that was fitted to them. What was trained stays as it is; rows move in and out.

    rows: in the order in which they came. attributes: their schema. choice: with the layout as it is now. codes: of
    each block, None where it has changed since they were made. vector_kind: of the stored vectors. added f64 (2): rows
    since the fit, and the sum of their squared distances to the centres of their blocks. held: rows that follow what is
    added and removed, by position, which prices are measured by again when the index is written; None: they stay.
    """

    def __init__(
        self, rows: Rows, attributes: pa.Schema, choice: Choice, codes: list[Encoded | None], options: Options,
        vector_kind: str, held: Held | None = None,
    ) -> None:  # fmt: skip
        assert isinstance(rows.stored, Arrays)
        self.rows, self.attributes, self.choice, self.codes = rows, attributes, choice, codes
        self.options, self.vector_kind, self.held = options, vector_kind, held
        self.added = np.zeros(2)
        self._known_sizes = choice.layout.sizes()
        self._row_of: dict[int | bytes, int] | None = None
        self._fit_spread, self._fit_worth = self._measures()  # while the rows are those of the fit

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: rows apart, which nothing changes in place; of all else each copy has its own."""
        return {"rows": self.rows, "rest": packed({n: value for n, value in vars(self).items() if n != "rows"})}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({"rows": state["rows"]} | pickle.loads(state["rest"]))

    @property
    def stored(self) -> Arrays:
        """The rows as they were given."""
        assert isinstance(self.rows.stored, Arrays)
        return self.rows.stored

    @property
    def drift(self) -> float:
        """Mean squared distance of the rows added to the centres of their blocks, over that of the rows fitted; 1
        without any.
        """
        count, total = self.added
        return float(total / count / max(self._fit_spread, 1e-30)) if count else 1.0

    def follow(self) -> None:
        """Holds rows from now on by which prices are measured again, where it can and does not yet."""
        layout = self.choice.layout
        if self.held is None and layout.blocks > 1 and not isinstance(layout.section, TwoLevelSection):
            own = chosen(self.rows.count, self.rows.dimension, self.options.seed)
            self.held = begin(own, self.stored.gather(own), self.choice.contract, self.rows.count)

    def row_of(self) -> dict[int | bytes, int]:
        """Row of each id."""
        if self._row_of is None:
            self._row_of = {identifier: row for row, identifier in enumerate(list_ids(self.stored.id_of))}
        return self._row_of

    def add(self, new: Arrays) -> Rows:
        """Adds rows, which have ids and a kind that fit, to the blocks where they belong; them in the scale of the
        index. Raises InputError, and adds nothing, for vectors or blocks that the index cannot hold.
        """
        stored_values(new.floats(0, new.rows), self.vector_kind, np.arange(new.rows))  # raises where they are lost
        rows, layout = replace(self.rows, stored=new), self.choice.layout
        if (
            rows.metric != "cosine"
            and (np.linalg.norm(rows.slice(0, rows.count), axis=1) > NORM_MAX[rows.metric]).any()
        ):
            raise InputError(
                f"vectors over {NORM_MAX[rows.metric]:g} times as long as those of the fit",
                hint="fit again with them among the rows",
            )
        home = self._homes(rows)
        copy = self._copies(rows, home, layout.copy.shape[1])
        all_homes, all_copies = np.concatenate([layout.partition.home, home]), np.concatenate([layout.copy, copy])
        sizes = np.bincount(np.concatenate([all_homes, all_copies[all_copies >= 0]]), minlength=layout.blocks)
        by_row = are_long(self.stored, self.attributes.names)
        check_blocks(sizes, len(all_homes), self.choice.codec.code_bytes, rows.dimension, by_row)
        touched = np.unique(np.concatenate([home, copy[copy >= 0]]))
        first = self.rows.count
        self._move(self.stored.followed_by(new), all_homes, all_copies, touched)
        if self.held is not None:
            numbers, draw = np.arange(first, self.rows.count), np.random.default_rng([self.options.seed, 10, first])
            scale = Scale(rows.metric, rows.origin, rows.scale)
            self.held = follow(self.held, self.rows.count, numbers, new.floats(0, new.rows), scale, draw)
        self.added += np.array([len(home), self._squared_distances(rows, home).sum()])
        return rows

    def remove(self, numbers: Ints) -> None:
        """Removes rows (n), each named once; one is left at least."""
        kept, layout = np.setdiff1d(np.arange(self.rows.count), numbers), self.choice.layout
        home, copy = layout.partition.home, layout.copy
        touched = np.unique(np.concatenate([home[numbers], copy[numbers][copy[numbers] >= 0]]))
        if self.held is not None:
            moved = np.full(self.rows.count, -1)
            moved[kept] = np.arange(len(kept))
            self.held = without(self.held, numbers).renumbered(moved)
        self._move(self.stored.take(kept), home[kept], copy[kept], touched)

    def write(self, out: Path) -> None:
        """Writes a generation into a folder. Raises InputError as write_index does."""
        manifest = manifest_of(self.rows, self.attributes, self.choice, self.options, self.vector_kind)
        if self.held is not None:
            self._grow()
            self.held = filled(self.held, self.choice.contract.k, self.rows.count, nearest_in(self.rows))
        contents = Contents(self.rows, self.attributes, self.choice, self.vector_kind, manifest, self.encode, self.held)
        write_index(contents, BuildContext(out, self.rows.metric, self.options))

    def _grow(self) -> None:
        """Tells the router how blocks have grown since it was told last."""
        layout, sizes = self.choice.layout, self.choice.layout.sizes()
        if grow := ROUTERS[layout.router].grow:
            layout = replace(layout, section=grow(layout.section, self._known_sizes, sizes))
            self.choice, self._known_sizes = replace(self.choice, layout=layout), sizes

    def encode(self, low: int, high: int, source: Ints, starts: list[int]) -> list[Encoded]:
        """Codes of blocks [low, high), see contents.Encode: those that are not known are made, and kept."""
        choice, parts = self.choice, [source[a:b] for a, b in zip(starts, starts[1:], strict=False)]
        stale = [i for i in range(high - low) if self.codes[low + i] is None and len(parts[i])]
        if stale:
            x = self.rows.take(np.concatenate([parts[i] for i in stale]))
            ends = np.cumsum([0, *(len(parts[i]) for i in stale)]).tolist()
            centres = choice.layout.centres[[low + i for i in stale]]
            fresh = encode_blocks(choice.codec, x, ends, centres, self.rows.metric)
            for i, codes in zip(stale, fresh, strict=True):
                self.codes[low + i] = codes
        nothing = np.zeros(0, np.uint8)
        empty = Encoded((0.0, 0.0, 0.0, 0.0), np.zeros((0, choice.codec.code_bytes), np.uint8), nothing, nothing)
        return [self.codes[low + i] or empty for i in range(high - low)]

    def _move(self, stored: Arrays, home: I32, copy: I32, touched: Ints) -> None:
        """Takes these rows and their blocks; codes of blocks that were touched are no longer known."""
        layout = self.choice.layout
        layout = replace(layout, partition=replace(layout.partition, home=home), copy=copy)
        self.choice, self.rows = replace(self.choice, layout=layout), replace(self.rows, stored=stored)
        for block in touched.tolist():
            self.codes[block] = None
        self._row_of = None

    def _homes(self, rows: Rows) -> I32:
        """i32 (n): blocks of new rows."""
        layout = self.choice.layout
        if layout.router not in ("ecvh", "bec-tree"):
            return homes(rows, layout.centres)
        section = index_section(rows, layout.blocks, rows.count, layout.router)
        p = probabilities(layout.router, layout.section, section, prepare_rows(rows, np.arange(rows.count)))
        out: I32 = p.argmax(1).astype(np.int32)
        return out

    def _copies(self, rows: Rows, home: I32, most: int) -> I32:
        """i32 (n, most): blocks of copies of new rows, -1 for none: where the fitted rows would have them too."""
        if not most or self.choice.layout.blocks == 1:
            return np.full((len(home), most), -1, np.int32)
        copies = self._possible_copies(rows, home)
        return np.where(copies.order(most) <= self._fit_worth, copies.block[:, :most], np.int32(-1))

    def _possible_copies(self, rows: Rows, home: I32) -> Copies:
        """By soar where the build counted misses: new rows have no queries."""
        rule = self.options.copies or "soar"
        return COPY_RULES["soar" if rule == "misses" else rule](rows, Partition(self.choice.layout.centres, home))

    def _measures(self) -> tuple[float, float]:
        """Of the fitted rows: mean squared distance to their centres; the largest worth of a copy that was made."""
        layout, count = self.choice.layout, self.rows.count
        drawn = np.unique(np.linspace(0, count - 1, min(MEASURED_ROWS, count)).astype(np.int64))
        rows = replace(self.rows, stored=self.stored.take(drawn))
        home, copy = layout.partition.home[drawn], layout.copy[drawn]
        worst, copied = -np.inf, int((copy >= 0).sum())
        if copied and layout.blocks > 1:
            worth = np.sort(self._possible_copies(rows, home).order(copy.shape[1]).ravel())
            worst = float(worth[min(copied, int(np.isfinite(worth).sum())) - 1])
        return float(self._squared_distances(rows, home).mean()), worst

    def _squared_distances(self, rows: Rows, home: I32) -> npt.NDArray[np.float32]:
        """f32 (n): squared distances to the centres of these blocks."""
        r = rows.slice(0, rows.count) - self.choice.layout.centres[home]
        out: npt.NDArray[np.float32] = np.einsum("ij,ij->i", r, r)
        return out


def list_ids(ids: Ids) -> list[Any]:
    """Ids as a list of Python's integers or bytes."""
    return ids if isinstance(ids, list) else ids.tolist()
