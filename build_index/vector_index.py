"""The library: an index in a notebook, numpy in and out, saved as the Worker reads it."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vantage.errors import InputError, NotFoundError
from vantage.http.facets import facets_body
from vantage.index import Index
from vantage.receipt import Receipt
from vantage.search.facets import FacetAnswer, FacetQuery
from vantage.search.query import Answer, Query

from .bucket.names import check_name
from .bucket.open import open_index
from .bucket.store import local
from .build import id_bytes
from .clusters.cluster import tree_over
from .codecs.planes import Encoded
from .hashing.bec_tree import BecTree
from .ingest.arrays import Arrays, check_arrays, known_ids, matrix, name_ids, number, show_id, truth, whole
from .ingest.attributes import spot_bytes
from .ingest.rows import Ints, check_lengths, scale_rows
from .listing import list_pages
from .mutable import MutableIndex, list_ids
from .saved import SavedAs, log_id, read_rows
from .tasks.pickling import packed
from .tune.check import check_options
from .tune.choose import choose
from .tune.options import Options
from .write.held import first_held
from .write.vectors import stored_kind, stored_values

DRIFT_SHARE = 0.05  # of the fitted rows have to be added before drift is judged


class Found(NamedTuple):
    """Answers to Q queries, best first. ids int64 (Q, k), or objects (Q, k) of str (bytes where they are no UTF-8);
    scores f64 (Q, k): cosine or inner product, or the squared distance under l2. Where fewer were found: -1 or None,
    and NaN.
    """

    ids: npt.NDArray[Any]
    scores: npt.NDArray[np.float64]


class ListedRow(NamedTuple):
    """A row: its id as in Found, and its attributes by name."""

    id: Any
    attributes: dict[str, Any]


class Medoids(NamedTuple):
    """Of each of C clusters its most central row: ids (C) as in Found, vectors f32 (C, d) as they were added; and sizes
    i64 (C), rows in each.
    """

    ids: npt.NDArray[Any]
    vectors: npt.NDArray[np.float32]
    sizes: Ints


class VectorIndex:
    """Vectors with ids, searched as the Worker searches them.

    Parameters, as `vantage build --help` tells them; None: chosen by measuring.

    metric: cosine, l2 or dot. recall, k: the mean recall@k to promise. seed: all random choices follow from it.
    partition, router, copies, copies_share, fast, second_wave, codec, rotation: how blocks, routers, copies, second
    waves and codes are made. error_norms: keep what exact answers are proven by. vectors: f16 or f32, how float vectors
    are kept for exact scores. cache_bytes: of the Worker that the index is made to fit. memory_bytes: that fit may use
    beside the rows. growth, drift: see train_incremental.

    After fit: n_features_in_ (the dimension), n_fitted_ (rows that the last fit saw), recall_ (what rows held out
    measured at the promise), drift_ (see train_incremental), ids_.

    Rows lie in memory. What was trained (blocks, router, codes, prices) changes in fit alone. After add or remove the
    next search or save writes the objects again, but encodes only the blocks that changed.
    """

    n_features_in_: int
    n_fitted_: int
    recall_: float
    _index: MutableIndex
    _tree: tuple[BecTree, Ints] | None  # and the number of each row in it
    _live: Index | None  # opened for searches, where nothing has changed since
    _saved: dict[Path, SavedAs]  # the folders that it lies in, and what has changed since

    def __init__(
        self,
        *,
        metric: str = "cosine",
        recall: float = Options.recall,
        k: int = Options.k,
        seed: int = Options.seed,
        partition: str | None = None,
        router: str | None = None,
        copies: str | None = None,
        copies_share: float | None = None,
        fast: bool = Options.fast,
        second_wave: bool = False,
        codec: str = Options.codec,
        rotation: str | None = None,
        error_norms: bool = Options.error_norms,
        vectors: str | None = None,
        cache_bytes: int = Options.cache_bytes,
        memory_bytes: int = Options.memory_bytes,
        growth: float = 2.0,
        drift: float = 1.2,  # rows alike measure 1.03 in bench/library.py, half of them moved 1.2 to 1.5
    ) -> None:
        self.metric, self.recall, self.k, self.seed = metric, recall, k, seed
        self.partition, self.router, self.copies, self.copies_share = partition, router, copies, copies_share
        self.fast, self.second_wave, self.codec, self.rotation = fast, second_wave, codec, rotation
        self.error_norms, self.vectors = error_norms, vectors
        self.cache_bytes, self.memory_bytes, self.growth, self.drift = cache_bytes, memory_bytes, growth, drift

    # Parameters

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; deep is there for scikit-learn."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Sets parameters, which the next fit takes. Raises InputError for a name that is none."""
        known = self.get_params()
        for name in params:
            if name not in known:
                raise InputError(f"there is no parameter {name!r}", hint=f"known are: {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """The parameters that are not the default."""
        defaults = inspect.signature(type(self)).parameters
        changed = (f"{n}={v!r}" for n, v in self.get_params().items() if v != defaults[n].default)
        return f"{type(self).__name__}({', '.join(changed)})"

    def __len__(self) -> int:
        """Rows in the index."""
        return self._index.rows.count if hasattr(self, "_index") else 0

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: all but what a search has opened. No two share what add and remove change in place."""
        rest = packed({name: value for name, value in vars(self).items() if name not in ("_index", "_live")})
        return {"rest": rest} | ({"index": self._index.__getstate__()} if hasattr(self, "_index") else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(pickle.loads(state["rest"]))
        if "index" in state:
            self._index, self._live = MutableIndex.__new__(MutableIndex), None
            self._index.__setstate__(state["index"])

    # Rows

    def fit(self, train_vectors: Any, ids: Any = None) -> Self:
        """Makes the index anew from these vectors (n, d), 1 at least; they are its rows.

        Measures and trains all that `vantage build` does. ids (n): integers, strings or bytes; row numbers where they
        are not given. Raises InputError for vectors, ids or parameters that no index can have, or a recall that is not
        reached.
        """
        given = matrix(train_vectors, "the vectors")
        return self._fit(check_arrays(given, np.arange(len(given)) if ids is None else ids, self.metric), pa.schema([]))

    def add(self, vectors: Any, ids: Any = None) -> Self:
        """Adds rows: vectors (n, d), ids (n) as in fit, or the integers after the largest one.

        A row goes to the block of the nearest centre (where the router is ecvh or bec-tree, to the one of its word),
        and has copies where rows that were fitted would have them. Raises InputError, and adds nothing, where an id is
        there already, or as fit does.
        """
        self._check_fitted()
        index, given = self._index, matrix(vectors, "the vectors")
        old = index.stored
        self._check_width(given)
        if ids is None:
            if isinstance(old.id_of, list):
                raise InputError("vectors without ids", hint="the ids of this index are strings: give some")
            first = int(old.id_of.max()) + 1
            if first + len(given) > 1 << 63:
                raise InputError("vectors without ids", hint="there are no larger ones than the last: give some")
            ids = np.arange(len(given)) + min(first, (1 << 63) - 1)
        nulls = "[" + ",".join(["null"] * len(index.attributes)) + "]"
        new = check_arrays(given, ids, index.rows.metric, old.kind, nulls.encode())
        if not len(given):
            return self
        if new.id_kind != old.id_kind:
            raise InputError(f"ids of kind {new.id_kind} for an index of {old.id_kind}", hint="give ids of its kind")
        row_of = index.row_of()
        known = [identifier for identifier in list_ids(new.id_of) if identifier in row_of]
        if known:
            raise InputError(f"ids that are there already: {name_ids(known)}", hint="remove them first, or give others")
        rows, self._live = index.add(new), None
        for saved in self._saved.values():
            saved.note(list_ids(new.id_of), there=False)
        if self._tree is not None:
            tree, numbers = self._tree
            self._tree = tree, np.concatenate([numbers, tree.add(rows.slice(0, rows.count))])
        return self

    def remove(self, ids: Any) -> Self:
        """Removes rows by their ids (n): no search finds them any more, and what is saved no longer holds them.

        Raises NotFoundError, and removes nothing, where an id is not there; InputError where no row would be left.
        """
        self._check_fitted()
        doomed, row_of = list_ids(known_ids(ids)), self._index.row_of()
        missing = [identifier for identifier in doomed if identifier not in row_of]
        if missing:
            raise NotFoundError(f"there are no rows with the ids {name_ids(missing)}", hint="check the ids")
        gone = np.unique(np.array([row_of[identifier] for identifier in doomed], np.int64))
        if len(gone) == len(self):
            raise InputError("no row would be left", hint="an index keeps one row at least: fit a new one")
        if not len(gone):
            return self
        if self._tree is not None:
            tree, numbers = self._tree
            tree.remove(numbers[gone])
            self._tree = tree, np.delete(numbers, gone)
        self._index.remove(gone)
        self._live = None
        for saved in self._saved.values():
            saved.note(doomed, there=True)
        return self

    def train_incremental(self, stream: Iterable[Any]) -> Self:
        """Adds batches, each vectors or a pair of vectors and ids, and fits again when growth or drift asks for it.

        The first batch fits an index that is not fitted. After each batch everything is fitted again, with all rows,
        - when there are `growth` times the rows of the last fit or more: blocks have grown, so that a plan reads more
          bytes for as many blocks, and the prices that keep the promise were measured on fewer rows;
        - or when drift_ is `drift` or more, and at least a twentieth as many rows as were fitted have been added.
          drift_ is the mean squared distance of the rows added since the fit to the centres of their blocks, over that
          of the rows that were fitted. The error of a code grows with that distance, and rows far from all centres are
          not what the router has learnt from.
        Otherwise only the blocks that changed are encoded. drift_ is a little over 1 without drift: centres are means
        of the rows that they were fitted to.
        """
        for batch in stream:
            vectors, ids = batch if isinstance(batch, tuple) else (batch, None)
            if not hasattr(self, "_index"):
                self.fit(vectors, ids)
                continue
            self.add(vectors, ids)
            index = self._index
            enough = index.added[0] >= DRIFT_SHARE * self.n_fitted_
            if len(self) >= self.growth * self.n_fitted_ or (enough and index.drift >= self.drift):
                self._fit(index.stored, index.attributes, index.options.model)
        return self

    @property
    def held(self) -> MutableIndex:
        """The rows and what was fitted to them. Raises InputError before there is any."""
        self._check_fitted()
        return self._index

    @property
    def ids_(self) -> npt.NDArray[Any]:
        """The ids of all rows in the order of fit and add: int64 (n), or objects (n) of str or bytes."""
        self._check_fitted()
        ids = self._index.stored.id_of
        return np.array([show_id(i) for i in ids], object) if isinstance(ids, list) else ids.copy()

    @property
    def drift_(self) -> float:
        """See train_incremental; 1 where no row was added since the last fit."""
        self._check_fitted()
        return self._index.drift

    # Answers

    def search(
        self,
        queries: Any,
        k: int = Query.top_k,
        *,
        recall: float | None = None,
        rerank: int = Query.rerank,
        exact: bool = Query.exact,
        filter: Any = None,
        distinct: str | None = None,
    ) -> Found:
        """The k best rows of each query, queries (Q, d) -> ids and scores (Q, k).

        recall: to aim for, the one promised by default; it takes the place of `ef` and `probes`, as the index knows
        what it must read for it. rerank: so many rows by their full vectors, for exact scores. exact: proven answers;
        the index needs error_norms. filter: the rows that may answer, by their attributes, in an index that was loaded
        with some (docs/filters.md). distinct: an attribute, of each of whose values the best row answers. Answers are
        those of a Worker with nothing cached. Raises InputError for queries or a k that do not fit.
        """
        self._check_fitted()
        k, rerank = whole("k", k), whole("rerank", rerank)
        recall = None if recall is None else number("recall", recall)
        given = matrix(queries, "the queries")
        self._check_width(given)
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite and is refused
            vectors = given.astype(np.float32)
        index = self._opened()
        wishes = [
            Query(q.tolist(), k, recall, rerank, exact=exact, param="a query", filter=filter, distinct=distinct)
            for q in vectors
        ]

        async def answers() -> list[Answer]:
            return [await index.query(query) for query in wishes]

        all_answers: list[Answer] = _apart_from_loops(asyncio.run, answers())
        strings = index.root.index.id_kind == "bytes"
        ids = np.full((len(given), k), None, object) if strings else np.full((len(given), k), -1, np.int64)
        scores = np.full((len(given), k), np.nan)
        for i, answer in enumerate(all_answers):
            for j, match in enumerate(answer.matches):
                ids[i, j], scores[i, j] = show_id(match.id), match.score
        return Found(ids, scores)

    def facets(
        self, facets: Any, *, filter: Any = None, exact: bool = False, nearest: Any = None, k: int = 100
    ) -> dict[str, Any]:
        """Counts of the values of attributes, as the Worker has them: {"facets", "matched", "matched_exact",
        "complete"} (docs/filters.md).

        facets: {"lang": {"top": 10}, "year": {"buckets": 12}}. filter: of the rows that it takes alone. exact: refused
        where that would read too much. nearest (d): of the k rows nearest to this vector alone. Raises InputError for
        what does not fit, in an index without attributes too.
        """
        self._check_fitted()
        asked = FacetQuery(facets, filter, exact)
        if nearest is not None:
            given = matrix([nearest], "the vector")
            self._check_width(given)
            vector = given[0].astype(np.float32).tolist()
            asked = replace(asked, within=Query(vector, whole("k", k), attributes=True, filter=filter, param="nearest"))
        index = self._opened()
        plan = index.plan_facets(asked)

        async def counted() -> FacetAnswer:
            return await index.facets(plan, Receipt())

        return facets_body(_apart_from_loops(asyncio.run, counted()))

    def rows(
        self, filter: Any = None, *, limit: int | None = None, order_by: Any = None, distinct: str | None = None
    ) -> list[ListedRow]:
        """The rows that a filter takes, all without one, in an order that stays until the index changes.

        limit: so many at the most; None: all. order_by: {attribute: "asc" or "desc"}, rows without a value last.
        distinct: an attribute, one row of each of whose values comes. Raises InputError for a filter, or an attribute,
        that this index does not take (docs/filters.md).
        """
        self._check_fitted()
        limit, index = None if limit is None else whole("limit", limit), self._opened()

        def listed() -> list[ListedRow]:
            pages = list_pages(index, filter, limit=limit, order_by=order_by, distinct=distinct)
            return [ListedRow(show_id(row.id), row.attributes or {}) for page in pages for row in page.rows]

        out: list[ListedRow] = _apart_from_loops(listed)
        return out

    # Clusters

    def cluster(self, level: int | None = None, k: int | None = None) -> npt.NDArray[np.int32]:
        """i32 (N): the cluster of each row, in the order of ids_.

        Clusters are the nodes of a BEC-tree `level` bits below its root, so 2^level at most; or at most k of them, the
        splits of least worth undone; without either its leaves, of about 32 rows. A cluster lies inside of one of each
        level above. The first call makes the tree (training of some seconds); add and remove keep it, splitting and
        merging leaves, fit drops it, and it is not saved. Raises InputError for fewer than 2 rows.
        """
        level, k = _check_cut(level, k)
        tree, numbers = self._clusters()
        return tree.labels(level, k)[numbers]

    def assign(self, vectors: Any, level: int | None = None, k: int | None = None) -> npt.NDArray[np.int32]:
        """i32 (n): the clusters that vectors (n, d) would lie in, numbered as in cluster; none is added."""
        level, k = _check_cut(level, k)
        tree, _ = self._clusters()
        given = matrix(vectors, "the vectors")
        self._check_width(given)
        vectors = check_arrays(given, np.arange(len(given)), self._index.rows.metric)
        return tree.assign(replace(self._index.rows, stored=vectors).slice(0, len(given)), level, k)

    def medoids(self, level: int | None = None, k: int | None = None) -> Medoids:
        """The row of each cluster with the least summed squared distance to the others, and the cluster's size."""
        level, k = _check_cut(level, k)
        tree, numbers = self._clusters()
        row = np.full(len(tree.home), -1, np.int64)
        row[numbers] = np.arange(len(numbers))
        central = row[tree.medoids(level, k)[0]]
        return Medoids(self.ids_[central], self._index.stored.gather(central), tree.sizes(level, k))

    # Folders

    def save(self, path: str | Path) -> Self:
        """Writes the index to a folder, bucket/name, in the format that the Worker reads, and makes it live there.

        Where it was loaded from there, or saved there, and not fitted since, what was added and removed is written to
        the log of that index, with what others write to it, and compacted (docs/writes.md). Raises InputError for an
        address that is no folder's, or a folder that cannot be written; ConditionError where another has written a row
        that was added: those before it are written, and left to the next save is the rest.
        """
        self._check_fitted()
        if "://" in str(path) or re.match(r"(s3|r2):/", str(path)):  # as a Path has it
            raise InputError(f"{str(path)!r} is not on this machine", hint="save into a folder, then `vantage publish`")
        check_name(str(path))
        out = local(path)
        try:
            where = out.resolve()
            if where in self._saved and (out / "CURRENT").exists():
                _apart_from_loops(self._saved[where].write, self._index)
            else:
                out.mkdir(parents=True, exist_ok=True)
                self._index.write(out)
                self._saved[where] = SavedAs(where, log_id(where), {})
        except OSError as error:
            raise InputError(
                f"cannot write {error.filename or out}: {error.strerror or error}", hint="name another folder"
            ) from error
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The index in a folder, saved here or built by `vantage build`, with what was written to it since; it answers
        as it did, and can be changed.

        Vectors that were stored as f16 are f16 from then on; attributes stay, those of rows added later are null. What
        train_incremental goes by, growth and drift, is not stored: set it again.
        Raises NotFoundError where there is none, DamagedError where its bytes are not those that were written.
        """
        held, log = _apart_from_loops(read_rows, local(path))
        given = {name: getattr(held.options, name) for name in cls().get_params() if hasattr(held.options, name)}
        index = cls(metric=held.rows.metric, **given)
        index._start(held)
        where = local(path).resolve()
        index._saved = {where: SavedAs(where, log, {})}
        return index

    # What is inside

    def _fit(self, stored: Arrays, attributes: pa.Schema, model: str | None = None) -> Self:
        options = self._options_given()
        check_options(stored.rows, stored.dimension, options, self.metric)
        lost = False
        if self.vectors != "f32" and stored.kind == "f32":
            try:
                stored_values(stored.floats(0, stored.rows), "f16", np.arange(stored.rows))
            except InputError:  # of one row, which a sample may not show
                if self.vectors == "f16":
                    raise
                lost = True
        rows = scale_rows(stored, self.metric)
        norms = np.linalg.norm(rows.slice(0, rows.count), axis=1).astype(np.float64)
        check_lengths(self.metric, norms, float(norms.max()), f"row {norms.argmax()}")
        choice = choose(rows, id_bytes(stored) + spot_bytes(stored, attributes.names), options)
        kind = "f32" if lost else stored_kind(rows, choice.near, self.vectors)
        codes: list[Encoded | None] = [None] * choice.layout.blocks
        for kept in choice.codes:
            if kept.codec is choice.codec and kept.complete:
                codes = [*kept.get(0, choice.layout.blocks)]
        choice = replace(choice, codes=())  # rows may move
        held = first_held(rows, choice, kind)
        self._start(MutableIndex(rows, attributes, choice, codes, replace(options, model=model), kind, held))
        return self

    def _options_given(self) -> Options:
        if self.vectors not in (None, "f16", "f32"):
            raise InputError(f"vectors is {self.vectors!r}", hint="f16 or f32, or None: by measuring")
        for name in ("metric", "codec", "partition", "router", "copies", "rotation"):
            value = getattr(self, name)
            if not (isinstance(value, str) or (value is None and name not in ("metric", "codec"))):
                raise InputError(f"{name} is {value!r}", hint="give a name")
        for name in ("growth", "drift"):
            number(name, getattr(self, name))
        return Options(
            number("recall", self.recall), whole("k", self.k), whole("seed", self.seed),
            whole("cache_bytes", self.cache_bytes), whole("memory_bytes", self.memory_bytes), self.partition,
            self.router, self.copies,
            None if self.copies_share is None else number("copies_share", self.copies_share),
            truth("fast", self.fast), truth("second_wave", self.second_wave), self.codec, self.rotation,
            truth("error_norms", self.error_norms),
            vectors=self.vectors,
        )  # fmt: skip

    def _start(self, index: MutableIndex) -> None:
        """Takes the place of what was fitted before."""
        self._index, self._tree = index, None
        self._live, self._saved = None, {}
        self.n_features_in_, self.n_fitted_ = index.rows.dimension, index.rows.count
        contract = index.choice.contract
        self.recall_ = min(p.recall for p in contract.points if p.k == contract.k and p.recall >= contract.target)

    def _opened(self) -> Index:
        """The index as it is now, written to a folder of its own and opened through vantage."""
        if self._live is None:
            folder = tempfile.mkdtemp(prefix="vantage-")
            try:
                path = Path(folder, "index")
                path.mkdir()
                self._index.write(path)
                live: Index = _apart_from_loops(open_index, path)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            weakref.finalize(live, shutil.rmtree, folder, ignore_errors=True)
            self._live = live
        return self._live

    def _clusters(self) -> tuple[BecTree, Ints]:
        """The tree over all rows, and the number of each row in it."""
        self._check_fitted()
        if self._tree is None:
            options = self._index.options
            tree = tree_over(self._index.rows, options.seed, options.memory_bytes)
            self._tree = tree, np.arange(len(self))
        return self._tree

    def _check_fitted(self) -> None:
        if not hasattr(self, "_index"):
            raise InputError(f"this {type(self).__name__} is not fitted yet", hint="call fit, or load a saved index")

    def _check_width(self, given: npt.NDArray[Any]) -> None:
        if given.shape[1] != self.n_features_in_:
            raise InputError(
                f"vectors of {given.shape[1]} dimensions for an index of {self.n_features_in_}",
                hint="give vectors of the dimension that was fitted",
            )


def _check_cut(level: Any, k: Any) -> tuple[int | None, int | None]:
    """A level and a number of clusters, each checked where it is given."""
    return None if level is None else whole("level", level), None if k is None else whole("k", k)


def _apart_from_loops(call: Callable[..., Any], *args: Any) -> Any:
    """Calls in a thread of its own: a notebook has a loop running in this one, and asyncio.run wants none."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *args).result()
