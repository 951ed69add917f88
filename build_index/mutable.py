"""An index in memory whose rows come and go: their blocks, copies and codes, and which of them are to be made anew."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vantage.format import RouterSection

from .blocks.divide import divided
from .blocks.layout import quantize_centres
from .blocks.partition import Partition
from .codecs.planes import Encoded, encode_blocks
from .context import BuildContext
from .ingest.arrays import Arrays, Ids
from .ingest.attributes import are_long
from .ingest.rows import Ints, Rows
from .neighbours.graph import neighbour_graph
from .placing import MEASURED_ROWS, CopyRule, check_lengths, copy_rule, find_copies, find_homes, rule_name
from .routers import ROUTERS
from .routers.training import TrainingSet
from .tasks.pickling import packed
from .tune.choose import Choice
from .tune.draft import NEAR, block_counts
from .tune.living import ASKED_MIN, Held, Scale, filled, follow, is_due, nearest_in, without
from .tune.options import Options
from .write.contents import Contents, check_blocks
from .write.index import write_index
from .write.manifest import manifest_of
from .write.vectors import stored_values

I32 = npt.NDArray[np.int32]
DIVIDED = 1.1  # times the blocks that there are: fewer more are not worth what the router takes
ROUTER_BYTES_MAX = 6 << 20  # of what each reader keeps resident
LEARNERS = 24_000  # rows that a router learns from where blocks lie, as queries


class MutableIndex:
    """Rows in memory with the choice that was fitted to them. What was trained stays as it is; rows move in and out,
    and blocks are divided.

    rows: in the order in which they came. attributes: their schema. choice: with the layout as it is now. codes: of
    each block, None where it has changed since they were made. vector_kind: of the stored vectors. added f64 (2): rows
    since the fit, and the sum of their squared distances to the centres of their blocks. held: by position, those that
    prices are measured by again when the index is written; None: prices stay.
    """

    def __init__(
        self, rows: Rows, attributes: pa.Schema, choice: Choice, codes: list[Encoded | None], options: Options,
        vector_kind: str, held: Held | None = None,
    ) -> None:  # fmt: skip
        assert isinstance(rows.stored, Arrays)
        self.rows, self.attributes, self.choice, self.codes = rows, attributes, choice, codes
        self.options, self.vector_kind, self.held = options, vector_kind, held
        self.added = np.zeros(2)
        self._row_of: dict[int | bytes, int] | None = None
        self._fit_spread, self._rule = self._measures()  # while the rows are those of the fit

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
        check_lengths(rows)
        home = find_homes(rows, layout.centres, layout.router, layout.section)
        copy = find_copies(rows, home, layout.centres, self._rule)
        all_homes, all_copies = np.concatenate([layout.partition.home, home]), np.concatenate([layout.copy, copy])
        sizes = np.bincount(np.concatenate([all_homes, all_copies[all_copies >= 0]]), minlength=layout.blocks)
        by_row = are_long(self.stored, self.attributes.names)
        check_blocks(sizes, len(all_homes), self.choice.codec.code_bytes, rows.dimension, by_row)
        touched = np.unique(np.concatenate([home, copy[copy >= 0]]))
        self._move(self.stored.followed_by(new), all_homes, all_copies, touched)
        self.added += np.array([len(home), self._squared_distances(rows, home).sum()])
        return rows

    def remove(self, numbers: Ints) -> None:
        """Removes rows (n), each named once; one is left at least."""
        self._follow()
        kept, layout = np.setdiff1d(np.arange(self.rows.count), numbers), self.choice.layout
        home, copy = layout.partition.home, layout.copy
        touched = np.unique(np.concatenate([home[numbers], copy[numbers][copy[numbers] >= 0]]))
        if self.held is not None:
            moved = np.full(self.rows.count, -1)
            moved[kept] = np.arange(len(kept))
            self.held = replace(without(self.held, numbers).renumbered(moved), numbers=len(kept))
        self._move(self.stored.take(kept), home[kept], copy[kept], touched)

    def divide(self) -> None:
        """Divides the largest blocks until there are as many as an index of so many rows is built with, finds copies
        again, and lets the router know. Prices are measured again when the index is written, so nothing is divided
        where they cannot be; nor what every query reads whole, nor under a router that does not divide.
        """
        self._follow()
        layout, held, router = self.choice.layout, self.held, ROUTERS[self.choice.layout.router]
        if router.divide is None or self.choice.inline or held is None or len(held.rows) < ASKED_MIN:
            return
        blocks = divided_blocks(self.rows.count, layout.blocks, layout.router, layout.section)
        if blocks == layout.blocks:
            return
        section = layout.section if router.grow is None else router.grow(layout.section, held.sizes, layout.sizes())
        halves = None if router.halves is None else router.halves(section)
        before = Partition(layout.centres, layout.partition.home)
        partition, parent = divided(self.rows, before, blocks, halves)
        if len(parent) == layout.blocks:
            return
        centre_section, centres = quantize_centres(partition.centres, self.rows.metric)
        partition = replace(partition, centres=centres)
        copy = find_copies(self.rows, partition.home, centres, self._rule)
        section = router.divide(section, self._training(partition, copy, held.rows, router.trains), parent)
        layout = replace(
            layout, partition=partition, copy=copy, section=section, centre_section=centre_section, centres=centres
        )  # fmt: skip
        self.choice, self.codes = replace(self.choice, layout=layout), [None] * layout.blocks
        self.held = replace(held, sizes=layout.sizes(), changed=self.rows.count)

    def _training(self, partition: Partition, copy: I32, left_out: Ints, neighbours: bool) -> TrainingSet:
        """What a router learns these blocks from, but for rows left_out; with neighbours of LEARNERS rows, or none."""
        count, seed = self.rows.count, self.options.seed
        sample = np.setdiff1d(np.arange(count), left_out)
        alone = np.bincount(partition.home[sample], minlength=partition.blocks) == 0
        sample = np.union1d(sample, np.flatnonzero(alone[partition.home]))  # a block without any would not be found
        queries, near = np.empty(0, np.int64), np.empty((0, NEAR), np.int32)
        if neighbours:
            some = np.random.default_rng([seed, 5]).choice(sample, min(LEARNERS, len(sample)), replace=False)
            queries, memory = np.sort(some), self.options.memory_bytes
            near = neighbour_graph(
                self.rows, queries, min(NEAR, count - 1), seed=seed, memory_bytes=memory, partition=partition
            )  # fmt: skip
        return TrainingSet(self.rows, sample, partition, copy, queries, near, seed)

    def write(self, out: Path, *, text_room: bool = False) -> None:
        """Writes a generation into a folder; text_room: see Contents. Raises InputError as write_index does."""
        manifest = manifest_of(self.rows, self.attributes, self.choice, self.options, self.vector_kind)
        self._follow()
        held, count = self.held, self.rows.count
        if held is not None and is_due(held, held.changed, count):
            held = filled(held, self.choice.contract.k, count, nearest_in(self.rows))
        contents = Contents(
            self.rows, self.attributes, self.choice, self.vector_kind, manifest, self.encode, text_room, held
        )
        write_index(contents, BuildContext(out, self.rows.metric, self.options))

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

    def _follow(self) -> None:
        """Lets the rows held know of those that were added since the last time: one by one it would take long."""
        held, rows = self.held, self.rows
        if held is None or held.numbers == rows.count:
            return
        new, draw = np.arange(held.numbers, rows.count), np.random.default_rng([self.options.seed, 10, held.numbers])
        x = stored_values(self.stored.gather(new), self.vector_kind, new).astype(np.float32)
        held = follow(held, rows.count, new, x, Scale(rows.metric, rows.origin, rows.scale), draw)
        self.held = replace(held, numbers=rows.count)

    def _move(self, stored: Arrays, home: I32, copy: I32, touched: Ints) -> None:
        """Takes these rows and their blocks; codes of blocks that were touched are no longer known."""
        layout = self.choice.layout
        layout = replace(layout, partition=replace(layout.partition, home=home), copy=copy)
        self.choice, self.rows = replace(self.choice, layout=layout), replace(self.rows, stored=stored)
        for block in touched.tolist():
            self.codes[block] = None
        self._row_of = None

    def _measures(self) -> tuple[float, CopyRule]:
        """Of the fitted rows: mean squared distance to their centres; which of them have copies."""
        layout, count = self.choice.layout, self.rows.count
        drawn = np.unique(np.linspace(0, count - 1, min(MEASURED_ROWS, count)).astype(np.int64))
        rows = replace(self.rows, stored=self.stored.take(drawn))
        home, copy = layout.partition.home[drawn], layout.copy[drawn]
        name = rule_name(self.options.copies)
        rule = copy_rule(rows, home, (copy >= 0).sum(1), copy.shape[1], layout.centres, name)
        return float(self._squared_distances(rows, home).mean()), rule

    def _squared_distances(self, rows: Rows, home: I32) -> npt.NDArray[np.float32]:
        """f32 (n): squared distances to the centres of these blocks."""
        r = rows.slice(0, rows.count) - self.choice.layout.centres[home]
        out: npt.NDArray[np.float32] = np.einsum("ij,ij->i", r, r)
        return out


def divided_blocks(rows: int, blocks: int, router: str, section: RouterSection) -> int:
    """How many blocks those of an index of so many rows are to be divided into: as many as it is built with, or those
    that its router has room for; as many as there are where it divides none, or few more would come.
    """
    if ROUTERS[router].divide is None:
        return blocks
    most = blocks * ROUTER_BYTES_MAX // len(section.pack())
    due = min(block_counts(rows)[-1], most)
    return due if due >= DIVIDED * blocks else blocks


def list_ids(ids: Ids) -> list[Any]:
    """Ids as a list of Python's integers or bytes."""
    return ids if isinstance(ids, list) else ids.tolist()
