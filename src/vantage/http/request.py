"""Headers, bodies and query strings -> queries, each field checked by name."""

from __future__ import annotations

import re
import zlib
from array import array
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from ..bounded_json import Pairs, loads
from ..cost import Budget
from ..errors import InputError, LimitError
from ..format import DIMENSION_MAX, VECTORS
from ..format.log import SEQ_MAX
from ..indexes import NAME, NAME_RULE, Wish
from ..read.bucket import LIST_MAX
from ..search.listing import Listing
from ..search.query import Query

VECTORS_MAX = 256
BODY_BYTES_MAX = VECTORS.size + VECTORS_MAX * DIMENSION_MAX * 4  # the most vectors of the most numbers, as float32
JSON, BINARY = "application/json", "application/octet-stream"
# Bodies read as JSON: curl sends the second where nobody says anything else, and a browser may send the third unasked.
JSON_TYPES = ("", JSON, "application/x-www-form-urlencoded", "text/plain")
DEPTH_MAX = 32  # of JSON; a filter is nested up to 21 deep
PARTS_MAX = 4096  # lists, objects and texts of a body: a batch has some 300, and each costs far more than its two bytes
PARAMETERS_MAX = 32
KEY_BYTES_MAX = 1024  # of R2 and S3
MEMBERS_MAX = 64  # of gzip, one after another: each leaves a copy of what follows it
FRESHNESS = ("consistency", "max_stale_ms", "after")
CONSISTENCY = ("service", "bucket")
STALE_MS_MAX = 3_600_000
FIELDS = (
    "vector",
    "vectors",
    "id",
    "top_k",
    "include",
    "recall",
    "rerank",
    "budget",
    "explain",
    "exact",
    "model",
    "ids",
    "filter",
    "distinct",
    *FRESHNESS,
)
ROW_FIELDS = ("ids", "include", "numbers", *FRESHNESS)
LISTING_FIELDS = ("filter", "limit", "cursor", "include", "order_by", "distinct", "budget", "numbers", *FRESHNESS)
ROWS_MAX = 1000  # by their ids, in a request
OPTIONS = (
    "top_k",
    "include",
    "recall",
    "rerank",
    "explain",
    "exact",
    "model",
    "filter",
    "distinct",
    *FRESHNESS,
)  # of a query string
INTEGER = re.compile(r"-?[0-9]{1,20}")
IDS = ("string", "number")
INTEGER_BITS_MAX = 128  # an error tells the value in full
INCLUDE = ("attributes", "vector", "receipt")
INCLUDE_DEFAULT = ["receipt"]


class MediaError(InputError):
    """A body of a type or an encoding that is not read."""

    code = "unsupported_media_type"
    status = 415


class AcceptError(InputError):
    """No answer of a type that is accepted."""

    code = "not_acceptable"
    status = 406


def is_binary(content_type: str) -> bool:
    """Whether a body of this type holds vectors as bytes, and not JSON. Raises MediaError for any other."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != BINARY and kind not in JSON_TYPES and not kind.endswith("+json"):
        raise MediaError(f"a body of type {kind[:80]!r} is not read", hint=f"send {JSON} or {BINARY}")
    return kind == BINARY


_MEMBER = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.)*+"?+)++')  # of a list; a comma in a quoted string parts nothing
_WEIGHT = re.compile(r";\s*[qQ]\s*=\s*([01](?:\.[0-9]*)?)\s*(?:;|$)")


def negotiate(accept: str, offers: Sequence[str]) -> str:
    """The one of the types offered that an Accept header likes best (RFC 9110, 12.5.1).

    Of equal weight, a type that is named comes before one that a wildcard covers, then the order of the header, then
    that of `offers`. An empty header takes the first. Raises AcceptError where nothing fits.
    """
    best: dict[str, tuple[int, float, int]] = {}  # by type, of the most specific range: how specific, weight, -place
    for place, member in enumerate(_MEMBER.findall(accept)):
        kind, weight = member.partition(";")[0].strip().lower(), _WEIGHT.search(member)
        for offer in offers:
            ranges = "*/*", f"{offer.partition('/')[0]}/*", offer
            if kind in ranges:
                rank = ranges.index(kind), min(1.0, float(weight[1])) if weight else 1.0, -place
                best[offer] = max(best.get(offer, rank), rank)
    if not accept.strip():
        return offers[0]
    able = [offer for offer in offers if offer in best and best[offer][1] > 0]
    if not able:
        raise AcceptError(f"Accept allows none of {', '.join(offers)}", hint=f"accept {offers[0]}", param="Accept")
    return max(able, key=lambda offer: (best[offer][1], best[offer][0], best[offer][2]))


def decode(body: bytes, encoding: str) -> bytes:
    """The body without its Content-Encoding: gzip, or none. Takes BODY_BYTES_MAX of memory at most.

    Raises MediaError for another encoding, TooLargeError for a body too large unpacked, InputError for what is no gzip.
    """
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):
        raise MediaError(f"a body with encoding {coding[:80]!r} is not read", hint="send gzip, or no Content-Encoding")
    whole = bytearray()
    for _ in range(MEMBERS_MAX):
        if not body:
            return bytes(whole)
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            whole += member.decompress(body, BODY_BYTES_MAX + 1 - len(whole))
        except zlib.error:
            raise InputError("the body is not gzip", hint="send what Content-Encoding says", param="body") from None
        if len(whole) > BODY_BYTES_MAX:
            raise TooLargeError(len(whole))
        if not member.eof:
            raise InputError("the body ends within its gzip data", hint="send all of it", param="body")
        body = member.unused_data
    raise InputError(f"the body has more than {MEMBERS_MAX} gzip members", hint="compress it whole", param="body")


def parse_body(
    body: bytes | memoryview,
    names: tuple[str, ...] = FIELDS,
    parts_max: int = PARTS_MAX,
    example: str = 'send {"vector": [...], "top_k": 10}',
    pairs: Pairs | None = None,
) -> dict[str, Any]:
    """Fields of a JSON body; numbers may still be NaN or infinite. pairs: see `loads`. Raises InputError."""
    try:
        fields = loads(body, DEPTH_MAX, parts_max, finite=False, pairs=pairs)
    except ValueError as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeError) else str(error)[:200]
        raise InputError(f"the body is not JSON that can be read: {reason}", hint=example) from None
    if not isinstance(fields, dict):
        raise InputError("the body is not a JSON object", hint=example)
    for name in fields:
        check_known(name, names, name)
    return fields


class TooLargeError(LimitError):
    """The body is too large: nbytes is its length."""

    status = 413

    def __init__(self, nbytes: int) -> None:
        super().__init__("the body", nbytes, BODY_BYTES_MAX, hint="send fewer vectors a request")


def check_known(name: str, names: tuple[str, ...], param: str) -> None:
    if name not in names:
        raise InputError(f"unknown field {name[:80]!r}", hint=f"known are: {', '.join(names)}", param=param[:80])


def integer(value: Any, param: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{param} is not an integer", hint="send a whole number", param=param)
    if value.bit_length() > INTEGER_BITS_MAX:
        raise InputError(f"{param} is not an integer of 64 bits", hint="send a smaller number", param=param)
    return value


def parse_queries(fields: dict[str, Any]) -> tuple[list[Query], bool]:
    if sum(name in fields for name in ("vector", "vectors", "id")) != 1:
        raise InputError("send one of vector, vectors and id", hint='{"vector": [...]}', param="vector")
    many, by_id = "vectors" in fields, "id" in fields
    vectors = fields["vectors"] if many else [[] if by_id else fields["vector"]]
    if not isinstance(vectors, list) or not all(isinstance(v, list | array) for v in vectors):
        param = "vectors" if many else "vector"
        raise InputError(f"{param} is not a list of {'lists of ' * many}numbers", hint="send JSON arrays", param=param)
    if not 1 <= len(vectors) <= VECTORS_MAX:
        raise LimitError(
            "the number of vectors", len(vectors), f"1 to {VECTORS_MAX}", hint="send several requests", param="vectors"
        )
    include = _include(fields, INCLUDE_DEFAULT)
    recall = fields.get("recall")
    # NaN and infinity are numbers to Python's JSON alone, and an error may not repeat them.
    if recall is not None and (
        isinstance(recall, bool) or not isinstance(recall, int | float) or not abs(recall) < 1e9
    ):
        raise InputError("recall is not a number", hint="0.95 is a usual target", param="recall")
    if recall is not None and not 0 < recall < 1:
        raise LimitError("recall", recall, "between 0 and 1", hint="0.95 is a usual target", param="recall")
    if not isinstance(fields.get("explain", False), bool):
        raise InputError("explain is neither true nor false", hint="send true for the plan alone", param="explain")
    if not isinstance(fields.get("exact", False), bool):
        raise InputError("exact is neither true nor false", hint="send true for a proven answer", param="exact")
    parse_ids(fields.get("ids"))
    _check_text(fields, "distinct")
    rerank = integer(fields.get("rerank", 0), "rerank")
    if rerank < 0:
        raise LimitError("rerank", rerank, "0 or more", hint="0 switches it off", param="rerank")
    query = Query(
        None, integer(fields.get("top_k", 10), "top_k"), recall, rerank, "attributes" in include, "vector" in include,
        parse_budget(fields.get("budget", {})), exact=fields.get("exact", False),
        id=identifier(fields["id"]) if by_id else None, filter=filter_of(fields), distinct=fields.get("distinct"),
    )  # fmt: skip
    names = [f"vectors[{i}]" if many else "vector" for i in range(len(vectors))]
    return [Query(**{**vars(query), "vector": v, "param": n}) for v, n in zip(vectors, names, strict=True)], many


def identifier(value: Any, param: str = "id") -> int | bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{param} is neither a string nor an integer", hint="send one id", param=param)
    return integer(value, param)


def parse_ids(value: Any, param: str = "ids") -> str | None:
    """How integer ids are to be written. Raises InputError."""
    if value is not None and value not in IDS:
        what = f"{param} is neither {' nor '.join(IDS)}"
        raise InputError(what, hint='"string" is safe in every language', param=param)
    ids: str | None = value
    return ids


def parse_rows(fields: dict[str, Any]) -> tuple[list[int | bytes], list[str]]:
    """(ids of rows, what is wanted of them)."""
    ids = fields.get("ids")
    if not isinstance(ids, list):
        raise InputError("ids is not a list", hint='{"ids": ["a", "b"]}', param="ids")
    if not 1 <= len(ids) <= ROWS_MAX:
        raise LimitError("the number of ids", len(ids), f"1 to {ROWS_MAX}", hint="send several requests", param="ids")
    include = _include(fields, ["attributes", "vector"])
    parse_ids(fields.get("numbers"), "numbers")
    return [identifier(one, f"ids[{i}]") for i, one in enumerate(ids)], include


def parse_row_listing(fields: dict[str, Any]) -> tuple[Listing, list[str]]:
    """(the page of rows that is asked for, what is wanted of them)."""
    include = _include(fields, ["attributes", "receipt"])
    for name in ("cursor", "distinct"):
        _check_text(fields, name)
    parse_ids(fields.get("numbers"), "numbers")
    listing = Listing(
        filter_of(fields), integer(fields.get("limit", Listing.limit), "limit"), fields.get("cursor"),
        fields.get("order_by"), fields.get("distinct"), "attributes" in include, "vector" in include,
        parse_budget(fields.get("budget", {})),
    )  # fmt: skip
    return listing, include


def filter_of(fields: Mapping[str, Any]) -> Any:
    """The filter of a body, None without one. Raises InputError for null: one that was lost must not take all rows."""
    if "filter" in fields and fields["filter"] is None:
        raise InputError("filter is null", hint="leave it out, or send {} for all rows", param="filter")
    return fields.get("filter")


def _check_text(fields: dict[str, Any], name: str) -> None:
    if not isinstance(fields.get(name), str | None):
        raise InputError(f"{name} is no string", hint="send a string, or leave it out", param=name)


def _include(fields: dict[str, Any], usual: list[str]) -> list[str]:
    include = fields.get("include", usual)
    if not isinstance(include, list) or not all(isinstance(i, str) for i in include):
        raise InputError("include is not a list of names", hint=f"known are: {', '.join(INCLUDE)}", param="include")
    for name in include:
        check_known(name, INCLUDE, "include")
    return include


def parse_wish(fields: Mapping[str, Any]) -> Wish:
    """How new the answer has to be. Raises InputError."""
    consistency, stale_ms, after = (fields.get(name) for name in FRESHNESS)
    if consistency is not None and consistency not in CONSISTENCY:
        raise InputError("consistency is neither service nor bucket", hint='"bucket" looks at the log first',
                         param="consistency")  # fmt: skip
    if stale_ms is not None and consistency == "bucket":
        raise InputError("max_stale_ms beside consistency bucket", hint="send one of them", param="max_stale_ms")
    for name, value, most in (("max_stale_ms", stale_ms, STALE_MS_MAX), ("after", after, SEQ_MAX)):
        if value is not None and not 0 <= integer(value, name) <= most:
            raise LimitError(name, value, f"0 to {most}", hint="leave it out for the default", param=name)
    stale_s = 0.0 if consistency == "bucket" else None if stale_ms is None else stale_ms / 1000
    return Wish(stale_s, after or 0, consistency == "bucket")


def parse_wish_parameters(values: Mapping[str, str]) -> Wish:
    """The same of a query string."""
    fields: dict[str, Any] = {name: values[name] for name in FRESHNESS if name in values}
    for name in ("max_stale_ms", "after"):
        if name in fields:
            if not INTEGER.fullmatch(fields[name]):
                raise InputError(f"{name} is not an integer", hint="send a whole number", param=name)
            fields[name] = int(fields[name])
    return parse_wish(fields)


def parse_budget(fields: Any) -> Budget:
    """What a request may spend. Raises InputError."""
    if not isinstance(fields, dict):
        raise InputError("budget is not an object", hint='{"gets": 6, "bytes": 4000000, "waves": 1}', param="budget")
    usual = Budget()
    for name, value in fields.items():
        check_known(name, ("gets", "bytes", "waves", "ms"), f"budget.{name}")
        most = {"gets": 1000, "bytes": 1 << 30, "waves": 5, "ms": 60_000}[name]
        if not 0 <= integer(value, f"budget.{name}") <= most:
            raise LimitError(
                f"budget.{name}", value, f"0 to {most}", hint="leave it out for the default", param=f"budget.{name}"
            )
    return Budget(**{**vars(usual), **fields})


def parse_parameters(text: str, names: Sequence[str]) -> dict[str, str]:
    """A query string whose names are known and stand there once; values are of one character a byte (Latin-1)."""
    try:
        text = text.encode(errors="replace").decode("latin-1")
        pairs = parse_qsl(text, keep_blank_values=True, encoding="latin-1", max_num_fields=PARAMETERS_MAX)
    except ValueError:
        raise InputError(f"more than {PARAMETERS_MAX} parameters", hint="send fewer", param="path") from None
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in names:
            known = f"known here: {', '.join(names)}" if names else "none are known here"
            where = "; the fields of a query go into its JSON body" if name in FIELDS else ""
            raise InputError(f"unknown field {name[:80]!r} in the query string", hint=known + where, param=name[:80])
        if name in values:
            raise InputError(f"{name} stands twice in the query string", hint="send it once", param=name)
        values[name] = value
    return values


def parse_options(text: str) -> dict[str, Any]:
    """Fields of a query string, for a body that has no room for them."""
    fields: dict[str, Any] = {}
    for name, value in parse_parameters(text, OPTIONS).items():
        if name == "include":
            fields[name] = [v for v in value.split(",") if v]
        elif name in ("model", "distinct", "consistency"):
            fields[name] = value.encode("latin-1").decode(errors="replace")
        else:
            try:
                fields[name] = loads(value.encode("latin-1"), DEPTH_MAX, PARTS_MAX, finite=False)
            except ValueError:
                hint = 'filter={"lang":"de"}' if name == "filter" else "top_k=10"
                raise InputError(f"{name} is not a number, true or false", hint=hint, param=name) from None
    return fields


def parse_listing(text: str) -> tuple[str, str, int]:
    """(prefix of the names, key to go on behind, most entries) of the query string of a listing."""
    values = parse_parameters(text, ("prefix", "cursor", "limit"))
    prefix, cursor, limit = values.get("prefix", ""), values.get("cursor", ""), values.get("limit", str(LIST_MAX))
    if prefix and not NAME.fullmatch(prefix):
        raise InputError("no name of an index begins with this prefix", hint=NAME_RULE, param="prefix")
    if not INTEGER.fullmatch(limit):
        raise InputError("limit is not an integer", hint=f"1 to {LIST_MAX}", param="limit")
    if not 1 <= int(limit) <= LIST_MAX:
        raise LimitError("limit", int(limit), f"1 to {LIST_MAX}", hint="ask for the next page by cursor", param="limit")
    return prefix, _key(cursor), int(limit)


def cursor_of(key: str) -> str:
    """A key as a cursor: base64url, so that it stands in a URL as it is, and nobody takes it for a name."""
    return urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _key(cursor: str) -> str:
    try:
        key = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        if len(key.encode()) <= KEY_BYTES_MAX and cursor_of(key) == cursor:
            return key
    except ValueError:
        pass
    raise InputError("that is no cursor", hint="send the cursor of the page before as it came", param="cursor")
