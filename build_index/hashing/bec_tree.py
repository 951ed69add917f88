"""BEC-tree: clusters as prefixes of the ECVH code, with medoids; it grows, takes rows in and out, splits and merges.

A binary error-correcting cluster tree. Each inner node asks one bit of a row's word of signs, so a leaf is a prefix of
the word: the bits asked on the way to it. Leaves exclude each other and cover all codewords. A row lies where its cost
is least: its distance to the leaf's medoid, a penalty for bits that disagree with the prefix, a price on full leaves.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError

from ..ingest.rows import F32, Ints, Rows
from ..progress import SILENT, Progress
from .codewords import Codewords
from .prefixes import LEAF, Prefixes, entropy, gains, log_probability, probability

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
GONE = -1  # in place of a slot
BITS_MAX = 255  # of a word: in a file a bit is one byte, and 255 a leaf
ROUNDS = 2  # of assignment over the sample
NEAR = 32  # leaves of the most probable prefixes, among which the cheapest is looked for
PENALTY = 0.1  # of a nat of the prefix, in units of the mean distance of a row to its medoid
BALANCE = 0.1  # of the logarithm of a leaf's size over the mean, in the same units
CAPACITY = 1.8  # most rows of a leaf over the mean of the build, where bits are left to split it by
SPLIT, MERGE = 2.0, 0.25  # of the most that a split was worth after the build
UNIT_ROWS = 4096
UNIT_MIN = 1e-6  # of rows that are all alike
CHUNK_BYTES = 16 << 20


class _Node:
    """A leaf with its slot, or a bit and the nodes of both of its sides."""

    def __init__(self, parent: _Node | None, slot: int) -> None:
        self.parent, self.slot, self.bit, self.sides = parent, slot, LEAF, list[_Node]()

    def leaves(self) -> Iterator[_Node]:
        """In preorder."""
        if self.bit == LEAF:
            yield self
        for side in self.sides:
            yield from side.leaves()

    def path(self) -> Iterator[tuple[int, int]]:
        """(bit, 1 where it is 0 and -1 where it is 1), from here up."""
        node = self
        while node.parent is not None:
            yield node.parent.bit, 1 if node.parent.sides[0] is node else -1
            node = node.parent


@dataclass
class _Sums:
    """Of the rows of each leaf, by slot: count i64 (L), total f64 (L, d), soft and spread f64 (L, n) as in gains."""

    count: Ints
    total: F64
    soft: F64
    spread: F64

    @classmethod
    def none(cls, leaves: int, dimension: int, bits: int) -> _Sums:
        return cls(np.zeros(leaves, np.int64), np.zeros((leaves, dimension)), *np.zeros((2, leaves, bits), np.float64))

    def add(self, slot: I32, x: F32, margins: F32, sign: int = 1) -> None:
        """Rows x (m, d) of these slots come, or go where sign is -1."""
        order = np.argsort(slot, kind="stable")
        some, starts, count = np.unique(slot[order], return_index=True, return_counts=True)
        if not len(some):
            return
        p = probability(margins[order])
        self.count[some] += sign * count
        for sums, part in ((self.total, x[order]), (self.soft, p), (self.spread, entropy(p))):
            sums[some] += sign * np.add.reduceat(part.astype(np.float64), starts, axis=0)

    def of(self, slots: list[int]) -> _Sums:
        """(1, ...): of all these leaves together."""
        count, total, soft, spread = (
            column[slots].sum(0, keepdims=True) for column in (self.count, self.total, self.soft, self.spread)
        )
        return _Sums(count, total, soft, spread)

    def with_one_more(self) -> _Sums:
        """A leaf of no rows at the end."""
        none = _Sums.none(1, self.total.shape[1], self.soft.shape[1])
        return _Sums(
            np.append(self.count, none.count), np.concatenate([self.total, none.total]),
            np.concatenate([self.soft, none.soft]), np.concatenate([self.spread, none.spread]),
        )  # fmt: skip

    def without(self, slot: int) -> _Sums:
        """The last leaf takes the place of this one."""
        for column in (self.count, self.total, self.soft, self.spread):
            column[slot] = column[-1]
        return _Sums(self.count[:-1], self.total[:-1], self.soft[:-1], self.spread[:-1])

    def means(self) -> F32:
        out: F32 = (self.total / np.maximum(self.count, 1)[:, None]).astype(np.float32)
        return out

    def gains(self) -> F64:
        return gains(self.soft, self.spread, self.count[:, None])


@dataclass(frozen=True)
class Cut:
    """Clusters of one level. cluster i32 (L): of each leaf; prefix: the bits of each cluster, 0, 1 or - (not asked)."""

    cluster: I32
    prefix: list[str]

    def __len__(self) -> int:
        return len(self.prefix)


class BecTree:
    """Rows in leaves; made by `tree`. Directory and assignments agree after every call.

    home i32 (N): the leaf of every row that there ever was, -1 for those removed. Clusters of a level are numbered in
    the order of the tree. level and k name one: the nodes `level` bits below the root, and leaves above them; or at
    most k clusters, the splits of least worth undone; without either, the leaves. A row's cluster is the one that its
    leaf lies in, so that levels are nested.
    """

    def __init__(self, take: Callable[[Ints], F32], metric: str, directions: F32, threshold: F32, beta: float) -> None:
        self._take, self._metric = take, metric
        self._directions, self._threshold, self._beta = directions, threshold, beta
        self._prefixes = Prefixes(directions, threshold, beta, np.array([LEAF], np.int16), np.zeros(1, np.int32))
        self._root = _Node(None, 0)
        self._at = [self._root]  # by slot
        self.home: I32 = np.zeros(0, np.int32)
        self._first_more, self._more = 0, np.zeros((0, directions.shape[1]), np.float32)
        self._unit, self._capacity, self._worth, self._penalty = 1.0, 1, np.inf, PENALTY
        self._sums = _Sums.none(1, directions.shape[1], len(threshold))
        self._point, self._medoid = np.zeros((1, directions.shape[1]), np.float32), np.full(1, -1, np.int64)
        self._signs = np.zeros((1, len(threshold)), np.float32)

    # What it says

    @property
    def leaves(self) -> int:
        return len(self._at)

    def prefixes(self) -> Prefixes:
        """The tree without its medoids; leaves numbered as in home."""
        asked, number, stack = list[int](), list[int](), [self._root]
        while stack:
            node = stack.pop()
            asked.append(node.bit)
            if node.bit == LEAF:
                number.append(node.slot)
            stack += node.sides[::-1]
        return Prefixes(
            self._directions, self._threshold, self._beta, np.array(asked, np.int16), np.array(number, np.int32)
        )

    def level(self, bits: int) -> Cut:
        """The nodes so many bits below the root, and leaves that lie above them: at most 2^bits clusters."""
        if bits < 0:
            raise InputError(f"level {bits} of a tree", hint="0 is the root")
        nodes = [self._root]
        for _ in range(bits):
            below = [side for node in nodes for side in node.sides or [node]]
            if len(below) == len(nodes):
                break
            nodes = below
        return self._cut(nodes)

    def cut(self, k: int) -> Cut:
        """At most k clusters: from the root down, the node whose split is worth most is split first."""
        if k < 1:
            raise InputError(f"{k} clusters", hint="ask for one or more")
        heap, clusters, turn = [(0.0, 0, self._root)], set[_Node](), 1
        while heap and len(heap) + len(clusters) < k:
            _, _, node = heapq.heappop(heap)
            if node.bit == LEAF:
                clusters.add(node)
                continue
            for side in node.sides:
                heapq.heappush(heap, (-self._worth_of(side), turn, side))
                turn += 1
        clusters |= {node for _, _, node in heap}
        return self._cut(self._in_order(clusters))

    def assign(self, x: F32, level: int | None = None, k: int | None = None) -> I32:
        """i32 (m): the cluster of each vector x f32 (m, d), in the scale of the rows; nothing is added."""
        cluster, out = self.clusters(level, k).cluster, np.empty(len(x), np.int32)
        for at in range(0, len(x), self._step()):
            part = x[at : at + self._step()]
            out[at : at + len(part)] = cluster[self._cheapest(part, self._prefixes.margins(part))]
        return out

    def labels(self, level: int | None = None, k: int | None = None) -> I32:
        """i32 (N): the cluster of every row, -1 for those removed."""
        return np.where(self.home >= 0, self.clusters(level, k).cluster[self.home], -1).astype(np.int32)

    def sizes(self, level: int | None = None, k: int | None = None) -> Ints:
        """i64 (clusters): rows in each."""
        cut = self.clusters(level, k)
        out = np.zeros(len(cut), np.int64)
        np.add.at(out, cut.cluster, self._sums.count)
        return out

    def medoids(self, level: int | None = None, k: int | None = None) -> tuple[Ints, F32]:
        """(row i64 (clusters), vector f32 (clusters, d)): of each the row of least summed squared distance to the rest.

        On the sphere that is the least sum of cosine distances. One pass over the rows; -1 and zeros of no rows.
        """
        cut = self.clusters(level, k)
        total = np.zeros((len(cut), self._sums.total.shape[1]))
        np.add.at(total, cut.cluster, self._sums.total)
        means = (total / np.maximum(self.sizes(level, k), 1)[:, None]).astype(np.float32)
        return self._central(self.labels(level, k), means)

    # What changes it

    def add(self, x: F32) -> Ints:
        """i64 (m): the numbers of new rows x f32 (m, d), in the scale of the others, after all that there were.

        Leaves that become too full, or that a bit now tells apart well, are split.
        """
        numbers = np.arange(len(self.home), len(self.home) + len(x))
        self._more = np.concatenate([self._more, x.astype(np.float32)])
        self.home = np.concatenate([self.home, np.full(len(x), -1, np.int32)])
        for at in range(0, len(x), self._step()):
            part, some = x[at : at + self._step()], numbers[at : at + self._step()]
            margins = self._prefixes.margins(part)
            self.home[some] = slot = self._cheapest(part, margins)
            self._sums.add(slot, part, margins)
            touched = [self._at[s] for s in np.unique(slot)]
            self._find_medoids(touched)
            while touched:
                touched += self._split(touched.pop())
        return numbers

    def remove(self, numbers: Ints) -> None:
        """Takes rows out. Empty leaves go; siblings that hold few rows, and differ little, become one.

        Raises InputError for rows that are not there, or named twice; then nothing was removed.
        """
        numbers = np.asarray(numbers, np.int64)
        there = (numbers >= 0) & (numbers < len(self.home))
        there[there] = self.home[numbers[there]] >= 0
        if not there.all():
            raise InputError(f"row {numbers[~there][0]} is not in the tree", hint="name rows that are")
        if len(np.unique(numbers)) < len(numbers):
            raise InputError("a row is named twice", hint="name each once")
        touched: dict[_Node, None] = {}  # in order
        for at in range(0, len(numbers), self._step()):
            some = numbers[at : at + self._step()]
            x, slot = self._rows(some), self.home[some]
            self._sums.add(slot, x, self._prefixes.margins(x), -1)
            self.home[some] = -1
            touched |= dict.fromkeys(self._at[s] for s in np.unique(slot))
        self._find_medoids(list(touched))
        for leaf in touched:
            node: _Node | None = leaf
            while node is not None and node.slot != GONE:
                node = self._merge(node)

    # Inside

    def _step(self) -> int:
        """Vectors whose leaves are looked for at a time."""
        return max(1, CHUNK_BYTES // (4 * max(self.leaves, NEAR * self._point.shape[1])))

    def _rows(self, numbers: Ints) -> F32:
        """f32 (m, d): rows by number."""
        out, old = np.empty((len(numbers), self._more.shape[1]), np.float32), numbers < self._first_more
        out[old] = self._take(numbers[old])
        out[~old] = self._more[numbers[~old] - self._first_more]
        return out

    def _distance(self, x: F32, point: F32) -> F32:
        """f32 (m, c) of x (m, d) to points (m, c, d): angles under cosine."""
        inner = np.einsum("md,mcd->mc", x, point)
        if self._metric == "cosine":
            out: F32 = np.arccos(np.clip(inner, -1, 1))
            return out
        apart = np.einsum("md,md->m", x, x)[:, None] + np.einsum("mcd,mcd->mc", point, point) - 2 * inner
        out = np.sqrt(np.maximum(apart, 0))
        return out

    def _cheapest(self, x: F32, margins: F32, slots: I32 | None = None) -> I32:
        """i32 (m): the leaf of least cost for each, of these slots or of all."""
        among = np.arange(self.leaves, dtype=np.int32) if slots is None else slots
        log_p = log_probability(margins, self._signs[among])
        near = np.argpartition(-log_p, min(NEAR, len(among)) - 1, axis=1)[:, :NEAR]
        likely, leaf = np.take_along_axis(log_p, near, 1), among[near]
        crowding = BALANCE * np.log(np.maximum(self._sums.count, 1) / max(1.0, self._sums.count.mean()))
        cost = self._distance(x, self._point[leaf]) / self._unit - self._penalty * likely + crowding[leaf]
        best: I32 = np.take_along_axis(leaf, cost.argmin(1)[:, None], 1)[:, 0]
        return best

    def _central(self, label: I32, means: F32) -> tuple[Ints, F32]:
        """(row i64 (c), vector f32 (c, d)): of each label the row nearest to its mean, the lower one among equals."""
        row, vector = np.full(len(means), -1, np.int64), np.zeros_like(means)
        least = np.full(len(means), np.inf)
        labelled = np.flatnonzero(label >= 0)
        step = max(1, CHUNK_BYTES // (4 * means.shape[1]))
        for at in range(0, len(labelled), step):
            some = labelled[at : at + step]
            x, own = self._rows(some), label[some]
            apart = ((x - means[own]) ** 2).sum(1, dtype=np.float64)
            order = np.lexsort((some, apart, own))
            first = order[np.unique(own[order], return_index=True)[1]]
            first = first[apart[first] < least[own[first]]]
            least[own[first]], row[own[first]], vector[own[first]] = apart[first], some[first], x[first]
        return row, vector

    def _find_medoids(self, nodes: list[_Node]) -> None:
        """Of leaves whose rows have changed."""
        slots = np.array([node.slot for node in nodes], np.int32)
        if not len(slots):
            return
        number = np.full(self.leaves + 1, -1, np.int32)
        number[slots] = np.arange(len(slots), dtype=np.int32)
        self._medoid[slots], self._point[slots] = self._central(number[self.home], self._sums.means()[slots])

    def _fill(self, numbers: Ints) -> None:
        """Sums and medoids of rows whose leaves are known."""
        self._sums = _Sums.none(self.leaves, self._more.shape[1], len(self._threshold))
        self._point = np.zeros((self.leaves, self._more.shape[1]), np.float32)
        self._medoid = np.full(self.leaves, -1, np.int64)
        for at in range(0, len(numbers), self._step()):
            some = numbers[at : at + self._step()]
            x = self._rows(some)
            self._sums.add(self.home[some], x, self._prefixes.margins(x))
        self._centre()

    def _settle(self, numbers: Ints) -> None:
        """Each row goes where its cost is least, in mini-batches that see the sizes so far; then medoids follow."""
        for at in range(0, len(numbers), self._step()):
            some = numbers[at : at + self._step()]
            x, was = self._rows(some), self.home[some]
            margins, old = self._prefixes.margins(x), was >= 0
            to = self._cheapest(x, margins)
            self._sums.add(was[old], x[old], margins[old], -1)
            self._sums.add(to, x, margins)
            self.home[some] = to
        self._centre()

    def _centre(self) -> None:
        """Medoids of all leaves, and the unit of costs: the mean distance of a row to its own."""
        self._find_medoids(self._at)
        held = np.flatnonzero(self.home >= 0)
        some = held[:: max(1, len(held) // UNIT_ROWS)]
        apart = self._distance(self._rows(some), self._point[self.home[some]][:, None])
        self._unit = max(float(apart.mean()), UNIT_MIN)

    def _worth_of(self, node: _Node) -> float:
        """Nats that splitting a node brings to its rows together: by its own bit, or by a leaf's best."""
        sums = self._sums.of([leaf.slot for leaf in node.leaves()])
        gain = sums.gains()[0]
        if node.bit == LEAF:
            gain[[bit for bit, _ in node.path()]] = 0
        return float(sums.count[0] * (gain.max() if node.bit == LEAF else gain[node.bit]))

    def _split(self, leaf: _Node) -> list[_Node]:
        """Both new leaves of one that is too full, or worth it, where a bit parts its rows; else none."""
        size = int(self._sums.count[leaf.slot])
        if size < 2 or (size <= self._capacity and self._worth_of(leaf) <= SPLIT * self._worth):
            return []
        members = np.flatnonzero(self.home == leaf.slot)
        x = self._rows(members)
        margins = self._prefixes.margins(x)
        bit = parting(margins, self._sums.of([leaf.slot]).gains()[0], [bit for bit, _ in leaf.path()])
        if bit is None:
            return []
        low, high = _Node(leaf, leaf.slot), _Node(leaf, self.leaves)
        leaf.bit, leaf.sides = bit, [low, high]
        self._at[low.slot] = low
        self._at.append(high)
        self._sums = self._sums.with_one_more()
        self._point = np.concatenate([self._point, np.zeros((1, x.shape[1]), np.float32)])
        self._medoid = np.append(self._medoid, -1)
        self._signs = np.concatenate([self._signs, self._signs[low.slot][None]])
        self._signs[[low.slot, high.slot], bit] = 1, -1
        over = margins[:, bit] < 0
        self._move(members[over], x[over], margins[over], low.slot, np.full(int(over.sum()), high.slot, np.int32))
        self._find_medoids([low, high])
        return [low, high]

    def _move(self, members: Ints, x: F32, margins: F32, source: int, to: I32) -> None:
        self._sums.add(np.full(len(members), source, np.int32), x, margins, -1)
        self._sums.add(to, x, margins)
        self.home[members] = to

    def _merge(self, leaf: _Node) -> _Node | None:
        """The leaf that a leaf and its sibling became, where one is empty, or both hold few rows and differ little."""
        parent = leaf.parent
        if parent is None:
            return None
        sibling = parent.sides[1 - parent.sides.index(leaf)]
        if self._sums.count[leaf.slot] == 0:
            return self._dissolve(leaf)
        if sibling.bit != LEAF:
            return None
        both = int(self._sums.count[[leaf.slot, sibling.slot]].sum())
        if 2 * both > self._capacity or self._worth_of(parent) >= MERGE * self._worth:
            return None
        return self._dissolve(sibling)

    def _dissolve(self, leaf: _Node) -> _Node | None:
        """Puts the sibling in the parent's place, and the rows under it; returns it where it is a leaf."""
        parent = leaf.parent
        assert parent is not None
        sibling = parent.sides[1 - parent.sides.index(leaf)]
        heirs = list(sibling.leaves())
        self._signs[[heir.slot for heir in heirs], parent.bit] = 0
        sibling.parent = parent.parent
        if parent.parent is None:
            self._root = sibling
        else:
            parent.parent.sides[parent.parent.sides.index(parent)] = sibling
        members = np.flatnonzero(self.home == leaf.slot)
        if len(members):
            x = self._rows(members)
            margins = self._prefixes.margins(x)
            to = self._cheapest(x, margins, np.array([heir.slot for heir in heirs], np.int32))
            self._move(members, x, margins, leaf.slot, to)
            self._find_medoids([self._at[s] for s in np.unique(to)])
        self._vacate(leaf.slot)
        return sibling if sibling.bit == LEAF else None

    def _vacate(self, slot: int) -> None:
        """The last slot takes the place of an empty one."""
        last, self._at[slot].slot = self.leaves - 1, GONE
        self.home[self.home == last] = slot
        moved = self._at.pop()
        if slot < last:
            self._at[slot], moved.slot = moved, slot
        self._sums = self._sums.without(slot)
        for column in (self._point, self._medoid, self._signs):
            column[slot] = column[last]
        self._point, self._medoid, self._signs = self._point[:last], self._medoid[:last], self._signs[:last]

    def _in_order(self, nodes: set[_Node]) -> list[_Node]:
        """In preorder."""
        out, stack = list[_Node](), [self._root]
        while stack:
            node = stack.pop()
            if node in nodes:
                out.append(node)
            else:
                stack += node.sides[::-1]
        return out

    def _cut(self, nodes: list[_Node]) -> Cut:
        cluster, prefix = np.empty(self.leaves, np.int32), []
        for i, node in enumerate(nodes):
            cluster[[leaf.slot for leaf in node.leaves()]] = i
            bits = ["-"] * len(self._threshold)
            for bit, sign in node.path():
                bits[bit] = "0" if sign > 0 else "1"
            prefix.append("".join(bits))
        return Cut(cluster, prefix)

    def clusters(self, level: int | None, k: int | None) -> Cut:
        if level is not None and k is not None:
            raise InputError("a level and a number of clusters", hint="name one")
        if k is not None:
            return self.cut(k)
        return self.level(len(self._threshold) if level is None else level)


def parting(margins: F32, gain: F64, used: list[int]) -> int | None:
    """The bit of most gain (n) that is not asked yet and has rows of margins (m, n) on both sides, if there is one."""
    over = (margins < 0).sum(0)
    open_ = (over > 0) & (over < len(margins))
    open_[used] = False
    return int(np.where(open_, gain, -1).argmax()) if open_.any() else None


def tree(
    rows: Rows,
    codewords: Codewords,
    leaves: int,
    sample: Ints | None = None,
    penalty: float = PENALTY,
    progress: Progress = SILENT,
) -> BecTree:
    """A tree of at most so many leaves over all rows; every leaf holds a row of the sample (sorted; all by default).

    penalty: what a nat of the prefix costs, in units of the mean distance of a row to its medoid.
    It grows by the sample's codewords, the leaf first whose split is worth most, or one over 1.8 times the mean; then
    rows move to where their cost is least, in chunks that see the sizes that those before them left. Work grows with N
    leaves n, memory with leaves d.
    """
    if leaves < 1:
        raise InputError(f"{leaves} leaves", hint="ask for one or more")
    if len(codewords.threshold) > BITS_MAX:
        raise InputError(f"codewords of {len(codewords.threshold)} bits", hint=f"{BITS_MAX} at most")
    known = np.arange(rows.count) if sample is None else sample
    bec_tree = BecTree(rows.take, rows.metric, codewords.directions, codewords.threshold, 2 * codewords.beta)
    bec_tree._penalty = penalty
    bec_tree.home, bec_tree._first_more = np.full(rows.count, -1, np.int32), rows.count
    step = max(1, CHUNK_BYTES // (4 * rows.dimension))
    margins = np.concatenate(
        [bec_tree._prefixes.margins(rows.take(known[at : at + step])) for at in range(0, len(known), step)]
    )
    bec_tree.home[known] = _grow(bec_tree, margins, leaves)
    bec_tree._fill(known)
    progress(0.2)
    for turn in range(ROUNDS):
        bec_tree._settle(known)
        progress(0.2 + 0.4 * (turn + 1) / ROUNDS)
    held = np.zeros(rows.count, bool)
    held[known] = True
    bec_tree._settle(np.arange(rows.count))
    for leaf in list(bec_tree._at):
        if bec_tree.leaves > 1 and not held[bec_tree.home == leaf.slot].any():
            bec_tree._dissolve(leaf)
    bec_tree._capacity = max(int(CAPACITY * rows.count / bec_tree.leaves) + 1, int(bec_tree._sums.count.max()))
    bec_tree._worth = max(bec_tree._worth_of(leaf) for leaf in bec_tree._at)
    progress(1.0)
    return bec_tree


def _grow(bec_tree: BecTree, margins: F32, leaves: int) -> I32:
    """i32 (m): the slot of each row of margins (m, n), of as many leaves as asked for where bits part them."""
    limit, out = CAPACITY * len(margins) / leaves, np.zeros(len(margins), np.int32)
    heap: list[tuple[bool, float, int, int, _Node, Ints]] = []

    def offer(node: _Node, rows: Ints) -> None:
        p = probability(margins[rows])
        gain = gains(p.sum(0), entropy(p).sum(0), len(rows))
        bit = parting(margins[rows], gain, [bit for bit, _ in node.path()])
        out[rows] = node.slot
        if bit is not None:
            heapq.heappush(heap, (len(rows) <= limit, -len(rows) * gain[bit], node.slot, bit, node, rows))

    offer(bec_tree._root, np.arange(len(margins)))
    while heap and bec_tree.leaves < leaves:
        *_, bit, node, rows = heapq.heappop(heap)
        low, high = _Node(node, node.slot), _Node(node, bec_tree.leaves)
        node.bit, node.sides = bit, [low, high]
        bec_tree._at[low.slot] = low
        bec_tree._at.append(high)
        over = margins[rows, bit] < 0
        offer(low, rows[~over])
        offer(high, rows[over])
    bec_tree._signs = np.zeros((bec_tree.leaves, margins.shape[1]), np.float32)
    for leaf in bec_tree._at:
        for bit, sign in leaf.path():
            bec_tree._signs[leaf.slot, bit] = sign
    return out
