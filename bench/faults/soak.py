"""A closed loop against workerd while its bucket fails by seed and its index is replaced: is every answer right?

    python -m bench.faults.soak BUCKET [--minutes 5] [--clients 16] [--seed 0] [--ttl 30]

BUCKET is a folder of two or more indexes of the same rows, built with different seeds: the generations of one index.
For half of the time there is no cache: an answer must be what CPython answers from the same generation. Then there is
the default one, and more blocks may be scanned: each id must have one of its own scores, as in every answer that is not
complete. Some questions have a deadline, some are batches of four, some name a row. After each half the faults end, and
everything must be right again; within one TTL, and a second for what is on its way. Exit 1 where it is not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import httpx

from bench.common import ACCESS, CACHE_BYTES, HEAP_MAX, loop, percentiles, project_with
from build_index.bucket.open import open_index
from build_index.serve import ROOT, load, serve
from vantage.errors import VantageError
from vantage.format import CHECK_BYTES, ROOT_KEY, VECTOR_BYTES, spot_at
from vantage.http import routes
from vantage.index import Index
from vantage.indexes import REVALIDATE_S, Service
from vantage.kernels import pool_reset
from vantage.read.bucket import Folder
from vantage.search.prepare import prepare
from vantage.search.rank import decode, exact_score, rank_estimated
from vantage.search.scan import LrsqScan

sys.path.append(str(ROOT / "tests"))
from faults import RATES  # noqa: E402  the same file that runs in the Worker

ROUNDS = 5  # of all questions, until each is right again
TIMEOUT_S = 1.0  # of a get in the Worker under test, so that a minute holds many of them
VECTORS = 12

# What each vector is asked for.
KINDS: list[dict[str, Any]] = [
    {"top_k": 10},
    {"top_k": 100, "include": ["receipt", "attributes"]},
    {"top_k": 10, "rerank": 50},
    {"top_k": 10, "recall": 0.8, "include": ["receipt", "vector"]},
    {"top_k": 10, "rerank": 20, "include": ["receipt", "vector", "attributes"]},
    {"top_k": 10, "budget": {"gets": 3, "bytes": 150_000, "waves": 1}},
    {"top_k": 10, "explain": True},
    {"top_k": 10, "budget": {"ms": 40}},
    {"top_k": 10, "rerank": 20, "budget": {"ms": 400}, "include": ["receipt", "attributes"]},
]
BATCH = 4
BATCH_KINDS: list[dict[str, Any]] = [
    {"top_k": 10, "include": ["receipt", "attributes"]},
    {"top_k": 10, "rerank": 20, "budget": {"ms": 400}},
]
ID_KINDS: list[dict[str, Any]] = [{"top_k": 10}, {"top_k": 10, "rerank": 20, "include": ["receipt", "vector"]}]
BAD = [b"", b"[1, 2]", b'{"vector": [1, 2]}', b'{"vector": "x"}', b'{"vectr": []}', b'{"vector": [1e999], "top_k": 3}']


@dataclass
class Truth:
    """A generation as it is: the index, and of each id its row, attributes and full vector.

    blocks: the extents of each rendition in the order of the directory.
    """

    index: Index
    blocks: list[list[bytes]]
    row: dict[Any, int]
    attributes: dict[Any, Any]
    vectors: list[bytes]

    def scores(self, vector: list[float]) -> dict[Any, set[float]]:
        """Of each id the scores that it has in the blocks that hold it, in any rendition."""
        root, directory = self.index.root, self.index.segment.resident
        assert directory is not None
        prepared, out = prepare(vector, root.index), dict[Any, set[float]]()
        most = max(directory.rows)
        for rendition, blocks in enumerate(self.blocks):
            for place, data in enumerate(blocks):
                scan = LrsqScan(root, directory, rendition, prepared, most)
                scan.block(place, data, keep=True)
                contenders = scan.contenders(most)
                for match in rank_estimated(contenders, prepared, root.index, len(contenders)):
                    out.setdefault(plain(match.id), set()).add(match.score)
        return out


def plain(identifier: int | bytes) -> int | str:
    """An id as JSON has it."""
    return identifier if isinstance(identifier, int) else identifier.decode(errors="replace")


def truth_of(folder: Path) -> Truth:
    """Reads a whole generation, without Vantage's store."""
    index = open_index(folder)
    root, directory = index.root, index.segment.resident
    assert directory is not None
    objects = [
        bytes(root.inline) if key == ROOT_KEY else (folder / index.current.generation / key).read_bytes()
        for key in root.objects.keys
    ]
    width, pages = VECTOR_BYTES[root.index.vector_kind] * root.index.dimension, root.rows
    vectors, texts = list[bytes](), list[bytes]()
    for page, (first, end) in enumerate(pairwise(pages.first_row)):
        n, at = end - first, pages.vector_offset[page]
        vectors += [objects[pages.vector_object[page]][at + i * width :][:width] for i in range(n)]
        facts = objects[pages.fact_object[page]][pages.fact_offset[page] :][CHECK_BYTES * n :]
        for i in range(n) if root.names else ():
            spot = spot_at(facts, n, i)
            texts.append(
                objects[pages.attribute_object[page]][pages.attribute_offset[page] + spot.offset :][: spot.size]
            )
    scan = LrsqScan(
        root, directory, 0, prepare(list(decode(vectors[0], root.index.vector_kind)), root.index), max(directory.rows)
    )
    blocks = [
        [
            objects[e.object][e.offset : e.offset + e.whole]
            for e in (directory.extent(i, r) for i in range(len(directory)))
        ]
        for r in range(len(root.renditions))
    ]
    row, attributes = dict[Any, int](), dict[Any, Any]()
    for place, data in enumerate(blocks[0]):
        pool_reset(scan.pool, max(directory.rows))
        scan.block(place, data, keep=True)
        for c in scan.contenders(directory.rows[place]):
            row[plain(c.id)] = c.row
            known = dict(zip(root.names, json.loads(texts[c.row]), strict=True)) if texts else {}
            attributes[plain(c.id)] = known
    return Truth(index, blocks, row, attributes, vectors)


@dataclass
class Question:
    """A request below the index, what it asks for, and by generation what CPython answers: (status, body).

    vectors: of the question, or of the row that it names (without: its id); none where there is nothing to match
    """

    method: str
    path: str
    body: bytes
    vectors: list[list[float]] = field(default_factory=list)
    without: Any = None
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)

    @property
    def hurried(self) -> bool:
        return bool(self.vectors) and "ms" in json.loads(self.body).get("budget", {})

    def unhurried(self) -> Question:
        """Without its deadline, which makes an answer a matter of chance."""
        if not self.hurried:
            return self
        fields = json.loads(self.body)
        del fields["budget"]["ms"]
        return replace(self, body=json.dumps(fields).encode())


@dataclass
class Oracle:
    """All questions, with what may be answered. scores: by generation and vector."""

    truths: dict[str, Truth]
    questions: list[Question]
    scores: dict[tuple[str, tuple[float, ...]], dict[Any, set[float]]]

    def fault_in(self, question: Question, status: int, got: Any, strict: bool) -> str:
        """What is wrong with an answer, "" if nothing is, or the code of a problem that a failing bucket explains."""
        expected = question.answers.values()
        if status != 200:
            code = str(got.get("code"))
            if DOCUMENTED.get(code) != status and (code, status) != ("limit_exceeded", 413):
                return f"wrong: {status} {code}: {got.get('detail')}"
            if any(s == status and b["code"] == code for s, b in expected):
                return ""
            return code if status >= 500 or code == "not_found" else f"wrong: {status} {code} of a good request"
        generation, parts = generation_of(got), got.get("results", [got])
        if not generation and question.hurried and not any(p["complete"] or p["matches"] for p in parts):
            return ""  # its time ended before the index was open
        if generation not in question.answers or question.answers[generation][0] != 200:
            return f"wrong: an answer of generation {generation}"
        want = question.answers[generation][1]
        if "matches" not in parts[0]:
            same = strict or not question.vectors  # a plan depends on the cache
            return "" if not same or bare(got) == bare(want) else "wrong: description or plan"
        if len(parts) != len(question.vectors):
            return "wrong: number of results"
        for vector, part, wanted in zip(question.vectors, parts, want.get("results", [want]), strict=True):
            if strict and part["complete"] and bare(part) != bare(wanted):
                return "wrong: not what CPython answers"
            fault = self._fault_in_matches(question, vector, generation, part)
            if fault:
                return fault
        return ""

    def _fault_in_matches(self, question: Question, vector: list[float], generation: str, got: Any) -> str:
        truth, matches = self.truths[generation], got["matches"]
        ids = [m["id"] for m in matches]
        if len(set(ids)) < len(ids) or any(i not in truth.row or i == question.without for i in ids):
            return "wrong: ids"
        top_k = json.loads(question.body)["top_k"]
        if len(ids) > top_k or (got["complete"] and len(ids) < top_k):
            return "wrong: number of matches"
        section = truth.index.root.index
        prepared = prepare(vector, section)
        allowed = self.scores[generation, tuple(vector)]
        for m in matches:
            stored = truth.vectors[truth.row[m["id"]]]
            right = {exact_score(stored, prepared, section)} if got["scores"] == "exact" else allowed[m["id"]]
            if m["score"] not in right:
                return "wrong: score"
            if m.get("attributes") is not None and m["attributes"] != truth.attributes[m["id"]]:
                return "wrong: attributes"
            if m.get("vector") is not None and m["vector"] != decode(stored, section.vector_kind):
                return "wrong: vector"
        scores = [m["score"] for m in matches]
        return "" if scores == sorted(scores, reverse=section.metric != "l2") else "wrong: order"


def documented() -> dict[str, int]:
    """code -> status of every error that Vantage documents; `internal` is none of them."""
    kinds, seen = [VantageError], dict[str, int]()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        seen.setdefault(kind.code, kind.status)
    return {code: status for code, status in seen.items() if code != VantageError.code}


DOCUMENTED = documented()


def generation_of(body: Any) -> str:
    """The generation that an answer comes from; "" where its index was not open in time."""
    return body.get("generation") or body["receipt"].get("generation") or ""


def bare(body: Any) -> Any:
    """What does not depend on retries, or on what the index is called."""
    return {k: v for k, v in body.items() if k not in ("receipt", "name")}


async def in_process(service: Service, name: str, question: Question) -> tuple[int, Any]:
    """(status, body) as HTTP would carry it."""

    async def body(*_: object) -> bytes:
        return question.body

    path = f"/v1/indexes/{name}{question.path}"
    reply = await routes.handle(question.method, path, {}, body, service, ACCESS, {})
    for work in reply.after:
        await work
    return reply.status, json.loads(reply.text())


def questions_of(truth: Truth) -> list[Question]:
    """Each kind of each vector, which lie between two rows; batches of them, rows by id, and bad ones."""
    kind, draw = truth.index.root.index.vector_kind, Random(1)
    pairs = [draw.sample(truth.vectors, 2) for _ in range(VECTORS)]
    vectors = [[float(x + y) / 2 for x, y in zip(decode(a, kind), decode(b, kind), strict=True)] for a, b in pairs]
    batches = [vectors[i : i + BATCH] for i in range(0, VECTORS, BATCH)]
    rows = draw.sample(sorted(truth.row.items(), key=str), BATCH)

    def question(fields: dict[str, Any], asked: list[list[float]], without: Any = None) -> Question:
        return Question("POST", "/query", json.dumps(fields).encode(), asked, without)

    return [
        *(question({"vector": v} | k, [v]) for v in vectors for k in KINDS),
        *(question({"vectors": b} | k, b) for b in batches for k in BATCH_KINDS),
        *(question({"id": i} | k, [decode(truth.vectors[row], kind)], i) for i, row in rows for k in ID_KINDS),
        *(Question("POST", "/query", b) for b in BAD),
        Question("GET", "", b""),
    ]


def oracle_of(bucket: Path) -> Oracle:
    """Everything that may be answered, from every index of the bucket, faults and cache off."""
    folders = sorted(path.parent for path in bucket.glob("*/CURRENT"))
    truths = {(truth := truth_of(folder)).index.current.generation: truth for folder in folders}
    questions = questions_of(next(iter(truths.values())))
    scores = {}
    for generation, truth in truths.items():
        service = Service(Folder(bucket), 0)
        for q in questions:
            q.answers[generation] = asyncio.run(in_process(service, truth.index.name, q.unhurried()))
            for vector in q.vectors:
                if (generation, tuple(vector)) not in scores:
                    scores[generation, tuple(vector)] = truth.scores(vector)
    return Oracle(truths, questions, scores)


@dataclass
class Outcome:
    """What a run met. recovered_s: from the end of the faults to the last answer that was late in coming right."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    incomplete: int = 0
    by_generation: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    heap: int = 0
    recovered_s: float = 0.0
    recovered: bool = True


async def _run(
    url: str, oracle: Oracle, seconds: float, rounds: int, clients: int, seed: int, ttl_s: float, cache: int,
    out: Outcome,
) -> None:  # fmt: skip
    """Faults for so many seconds and twice so many rounds of all questions, then none; cache: bytes of it."""
    bodies = [(t.index.bucket.path / t.index.name / "CURRENT").read_text() for t in oracle.truths.values()]
    names, ended, live = list(oracle.truths), 0.0, ""
    dealt, least = list[Question](), rounds * len(oracle.questions)
    limits = httpx.Limits(max_connections=clients + 2)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as http:

        async def faults(rates: dict[str, float], switch: bool = False) -> Any:
            wanted = {"seed": seed, "rates": rates, "generations": bodies}
            wanted |= {"timeout_s": TIMEOUT_S, "ttl_s": ttl_s, "cache_bytes": cache, "switch": switch}
            return (await http.post("/faults", json=wanted)).raise_for_status().json()

        async def ask(draw: Random, question: Question | None = None) -> bool:
            if not question and not dealt:  # so that each is asked as often as any other
                dealt.extend(draw.sample(oracle.questions, len(oracle.questions)))
            q = question or dealt.pop()
            reply = await http.request(q.method, f"/v1/indexes/live{q.path}", content=q.body)
            try:
                got = reply.json()
            except ValueError:
                got = {"code": "not JSON"}
            fault = oracle.fault_in(q, reply.status_code, got, not cache)
            generation = ""
            if reply.status_code == 200:
                generation = generation_of(got)
                out.by_generation.update([generation] if generation else [])
                out.incomplete += any(p.get("complete") is False for p in got.get("results", [got]))
            if fault.startswith("wrong"):
                out.wrong[fault] += 1
            elif fault:
                out.problems[f"{reply.status_code} {fault}"] += 1
            late = bool(fault) or (generation not in ("", live))
            if ended and late:
                out.recovered_s = max(out.recovered_s, time.perf_counter() - ended)
            return not late

        async def watch() -> None:
            while True:
                out.heap = max(out.heap, (await http.get("/v1/health")).json()["heap_bytes"])
                await asyncio.sleep(1)

        await faults(RATES)
        watching = asyncio.ensure_future(watch())
        began = time.perf_counter()
        out.latencies += await loop(clients, seconds / 2, ask, seed, least)
        await faults(RATES, switch=True)  # so that there is one, however few GETs there are
        out.latencies += await loop(clients, seconds / 2, ask, seed, least)
        out.seconds += time.perf_counter() - began
        told = await faults({})
        out.faults = Counter(told["counts"])  # they go on over both halves
        live, ended = names[told["live"]], time.perf_counter()
        await loop(clients, ttl_s + 1, ask, seed + 1)
        for _ in range(ROUNDS):
            if all(await asyncio.gather(*(ask(Random(0), q) for q in oracle.questions))):
                break
        else:
            out.recovered = False
        watching.cancel()


def soak(
    bucket: Path, seconds: float, clients: int, seed: int, ttl_s: float = REVALIDATE_S, rounds: int = 0
) -> Outcome:
    """Half of `seconds` under faults without and with a cache, and ttl_s after each.

    rounds: how often each question is asked at least in each quarter, which lasts longer where it takes that
    """
    oracle, out = oracle_of(bucket), Outcome()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for truth in oracle.truths.values():
            shutil.copytree(bucket / truth.index.name, folder / "bucket/live", dirs_exist_ok=True)
        load(folder / "bucket", folder / "state")
        project = project_with(folder / "project", "faulty_entry.py", "tests/faults.py")
        variables = {"PUBLIC_READ": "1", "VANTAGE_CACHE_BYTES": "0"}
        log = folder / "log"
        with serve(folder / "state", variables=variables, project=project, log=log) as server:
            for cache in (0, CACHE_BYTES):
                asyncio.run(_run(server.url, oracle, seconds / 2, rounds, clients, seed, ttl_s, cache, out))
        for line in log.read_text(errors="replace").splitlines() if out.wrong else ():
            if "internal error" in line:  # what it was stands nowhere else
                print(line)
    return out


def main() -> int:
    """Prints one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bucket", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ttl", type=float, default=REVALIDATE_S, help="seconds after which CURRENT is read again")
    options = parser.parse_args()
    if len(list(options.bucket.glob("*/CURRENT"))) < 2:
        parser.error(f"{options.bucket} holds fewer than two indexes: build one with --seed 0 and one with --seed 1")
    out = soak(options.bucket, 60 * options.minutes, options.clients, options.seed, options.ttl)
    asked = len(out.latencies)
    print(f"asked: {asked} in {out.seconds:.0f} s by {options.clients} clients, {asked / out.seconds:.1f} a second")
    print(f"took: {percentiles(out.latencies)}")
    print(f"faults met: {', '.join(f'{n} {what}' for what, n in sorted(out.faults.items()))}")
    print(f"answers by generation: {', '.join(f'{g} {n}' for g, n in sorted(out.by_generation.items()))}")
    print(f"not complete, and said so: {out.incomplete}")
    print(f"problems: {', '.join(f'{n} x {what}' for what, n in sorted(out.problems.items())) or 'none'}")
    print(f"wrong answers: {out.wrong.total()}{''.join(f'; {n} x {what}' for what, n in sorted(out.wrong.items()))}")
    print(f"Wasm heap at most: {out.heap / 2**20:.1f} MiB")
    print(f"last trouble after the faults ended: {out.recovered_s:.1f} s (TTL {options.ttl:.0f} s)")
    return 1 if out.wrong or not out.recovered or out.recovered_s > options.ttl + 1 or out.heap > HEAP_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
