"""POST /v1/indexes/{index}/facets: its body, its work and its answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..cost import CLASS_B_USD, wave_ms
from ..errors import InputError
from ..filter.bounds import Count
from ..filter.facet import value_of
from ..format import FilterField
from ..index import Index
from ..read.deadline import Deadline
from ..read.reader import IN_FLIGHT_BYTES_MAX
from ..receipt import Receipt
from ..search.facets import FacetAnswer, FacetPlan, FacetQuery
from ..search.memory import answers_bytes, facets_bytes, in_flight_bytes
from ..search.query import Query
from ..search.tally import Counted
from .handlers import Call, check_limits, identifier_of
from .reply import Reply
from .request import (
    FRESHNESS,
    JSON,
    VECTORS_MAX,
    decode,
    negotiate,
    parse_body,
    parse_budget,
    parse_parameters,
    parse_queries,
    parse_wish,
)

FIELDS = ("facets", "filter", "exact", "within", "include", "budget", "explain", *FRESHNESS)
WITHIN_FIELDS = ("vector", "id", "top_k", "recall", "rerank")
INCLUDE = ("receipt",)
READ_BYTES = 64 << 20  # whose columns take all that an isolate may compute at once


async def facets(call: Call) -> Reply:
    """Counts of values of attributes, or what they would read."""
    negotiate(call.headers.get("accept", ""), [JSON])
    parse_parameters(call.options, ())
    fields = parse_body(decode(await call.body(), call.headers.get("content-encoding", "")), FIELDS)
    asked, include, receipt = parse_facet_query(fields), fields.get("include", ["receipt"]), Receipt()
    explain = bool(fields.get("explain"))

    async def work(index: Index) -> dict[str, Any]:
        ready = asked
        if asked.within is not None and asked.within.id is not None:
            ready = replace(asked, within=replace(asked.within, id=identifier_of(index, asked.within.id)))
        plan = index.plan_facets(ready)
        nbytes, reads, share = facets_bytes(index.segment, plan.facets), plan.nbytes, plan.nbytes / READ_BYTES
        if ready.within is not None:
            check_limits([ready.within], index.limits)
            nbytes += answers_bytes(index.segment, [ready.within])
            reads, share = in_flight_bytes(index.segment, [ready.within]), 1 / VECTORS_MAX
        await call.make_room(nbytes, min(reads, IN_FLIGHT_BYTES_MAX), min(1.0, share))
        if explain:
            return plan_body(index, plan)
        return facets_body(await index.facets(plan, receipt, call.deadline))

    call.deadline.at = Deadline.after(asked.budget.ms).at
    body = await call.service.live(call.index, receipt, work, wish=parse_wish(fields))
    return Reply(200, body | ({"receipt": receipt.as_dict()} if "receipt" in include and not explain else {}))


def parse_facet_query(fields: dict[str, Any]) -> FacetQuery:
    """Raises InputError, which names the field."""
    for name in ("exact", "explain"):
        if not isinstance(fields.get(name, False), bool):
            raise InputError(f"{name} is neither true nor false", hint="send one of them", param=name)
    include = fields.get("include", [])
    if not isinstance(include, list) or not all(name in INCLUDE for name in include):
        raise InputError("include is not a list of names", hint=f"known are: {', '.join(INCLUDE)}", param="include")
    asked = FacetQuery(
        fields.get("facets"), fields.get("filter"), fields.get("exact", False), parse_budget(fields.get("budget", {}))
    )  # fmt: skip
    if "within" not in fields:
        return asked
    if fields.get("explain"):
        hint = "explain the query itself"
        raise InputError("what facets of nearest rows read is what their query reads", hint=hint, param="explain")
    return replace(asked, within=_within(fields["within"], asked))


def _within(fields: Any, asked: FacetQuery) -> Query:
    """The query whose matches count."""
    hint = '{"vector": [...], "top_k": 1000}'
    if not isinstance(fields, dict):
        raise InputError("within is not an object", hint=hint, param="within")
    for name in fields:
        if name not in WITHIN_FIELDS:
            known = f"known are: {', '.join(WITHIN_FIELDS)}"
            raise InputError(f"unknown field {name[:80]!r}", hint=known, param=f"within.{name[:80]}")
    try:
        [query], _ = parse_queries(fields)
    except InputError as error:
        error.param = f"within.{error.param}"
        raise
    return replace(query, attributes=True, filter=asked.filter, budget=asked.budget, param="within.vector")


def facets_body(answer: FacetAnswer) -> dict[str, Any]:
    """The JSON of counted facets."""
    return {
        "facets": {one.facet.name: _facet(one, answer.fields[one.facet.field]) for one in answer.facets},
        "matched": answer.matched.rows,
        "matched_exact": answer.matched.exact,
        "complete": answer.complete,
    }


def _facet(counted: Counted, field: FilterField) -> dict[str, Any]:
    exact, edges = counted.exact, counted.facet.edges

    def shown(count: Count) -> dict[str, int]:
        return {"count": count.rows} | ({} if exact else {"low": count.low, "high": count.high})

    values: list[dict[str, Any]]
    if counted.facet.top:
        values = [{"value": value_of(field, key), **shown(count)} for key, count in counted.values]
    else:
        values = [{"from": edges[i], "to": edges[i + 1], **shown(count)} for i, count in counted.values]
    name = "values" if counted.facet.top else "buckets"
    return {name: values, "other": shown(counted.other), "missing": shown(counted.missing), "exact": exact}


def plan_body(index: Index, plan: FacetPlan) -> dict[str, Any]:
    """What counting would read, and what it would take to count all of it."""
    root, sources = index.root, dict[str, dict[str, Any]]()
    for i, facet in enumerate(plan.facets):
        reading = next((one for one in plan.readings if i in one.facets), None)
        source, by = ("counts" if i in plan.bounded else "root"), None
        if reading is not None:
            source = "blocks" if reading.projection is None else "projection"
            by = None if reading.projection is None else root.names[root.filters[reading.projection].attribute]
        sources[facet.name] = {"exact": i not in plan.bounded, "source": source, "projection": by}
    sizes = [size for one in plan.readings for size in one.sizes]
    wanted = sizes + [size for one in plan.wanted for size in one.sizes]
    able = plan.bounded == {i for one in plan.wanted for i in one.facets}
    return {
        "generation": index.current.generation,
        "facets": sources,
        "gets": len(sizes),
        "bytes": sum(sizes),
        "modelled_ms": round(wave_ms(sizes), 2),
        "usd_per_million": round(1e6 * CLASS_B_USD * len(sizes), 4),
        "exact": {"gets": len(wanted), "bytes": sum(wanted), "modelled_ms": round(wave_ms(wanted), 2)}
        if able
        else None,
    }
