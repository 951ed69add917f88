"""PUT /v1/indexes/{index}: what an index is to hold, checked; and the empty index that it makes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ..errors import ExistsError, InputError, LimitError
from ..filter.parse import RESERVED
from ..format import ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTES_MAX, DIMENSION_MAX, METRICS, SCHEMA_BYTES_MAX, VECTOR_BYTES
from ..indexes import NAME, NAME_RULE, Wish
from ..log.create import Attribute, NewIndex, new_of
from ..receipt import Receipt
from .handlers import Call
from .reply import Reply
from .request import JSON, check_known, decode, integer, negotiate, parse_body, parse_parameters
from .writes import no_writes

FIELDS = ("dimension", "metric", "vectors", "ids", "attributes", "model")
ATTRIBUTE_FIELDS = ("name", "type", "list", "filter")
EXAMPLE = '{"dimension": 384, "metric": "cosine", "attributes": [{"name": "lang", "type": "text"}]}'
IDS = {"text": "bytes", "integer": "i64"}
TYPES = {  # of attributes, and what schemas call them
    "text": "string", "integer": "int64", "number": "double", "boolean": "bool", "time": "timestamp[us, tz=UTC]",
    "json": "extension<arrow.json>",
}  # fmt: skip
TEXTS = "list<item: string>"
PARTS_MAX = 8 * ATTRIBUTES_MAX
MODEL_CHARS_MAX = 200
SCHEMA_BYTES = SCHEMA_BYTES_MAX - (4 << 10)  # of attributes: the rest is for the model


async def create_index(call: Call) -> Reply:
    """Makes an empty index, which takes writes at once; one that is there already, and like it, stays as it is."""
    negotiate(call.headers.get("accept", ""), [JSON])
    parse_parameters(call.options, ())
    name, client, service = call.index, call.service.write_client, call.service
    if client is None:
        raise no_writes()
    if not NAME.fullmatch(name):
        raise InputError(f"{name[:80]!r} is no name for an index", hint=NAME_RULE, param="index")
    data = decode(await call.body(), call.headers.get("content-encoding", ""))
    new = parse_new(parse_body(data, FIELDS, PARTS_MAX, EXAMPLE))
    created = await client.create(name, new, time.time())
    await service.revalidate(name)
    index = await service.current(name, Receipt(), Wish(stale_s=0.0), call.deadline)
    if not created:
        check_like(name, new, new_of(index.root))
    told = {"index": name, "created": created, "generation": index.current.generation, "seq": index.seq}
    return Reply(201 if created else 200, told)


def check_like(name: str, new: NewIndex, there: NewIndex) -> None:
    """Raises ExistsError where an index that is there does not hold what a new one is to hold."""
    for param, own, wanted in zip(NewIndex._fields, there, new, strict=True):
        if own != wanted:
            field = {"id_kind": "ids", "vector_kind": "vectors"}.get(param, param)
            what = f"the index {name!r} is there, and its {field} is another"
            hint = "take another name, delete that index, or send what it was made with"
            raise ExistsError(what, hint=hint, param=field)


def parse_new(fields: Mapping[str, Any]) -> NewIndex:
    """Raises InputError or LimitError, which name the field."""
    if "dimension" not in fields:
        raise InputError("there is no dimension", hint=EXAMPLE, param="dimension")
    dimension = integer(fields["dimension"], "dimension")
    if not 1 <= dimension <= DIMENSION_MAX:
        hint = "reduce the vectors first" if dimension > 0 else "the number of values of a vector"
        raise LimitError("dimension", dimension, f"1 to {DIMENSION_MAX}", hint=hint, param="dimension")
    metric = _one_of(fields.get("metric", "cosine"), METRICS, "metric")
    vectors = _one_of(fields.get("vectors", "f16"), tuple(VECTOR_BYTES), "vectors")
    ids = IDS[_one_of(fields.get("ids", "text"), tuple(IDS), "ids")]
    model = fields.get("model")
    if model is not None and (_utf8_bytes(model) is None or not 1 <= len(model) <= MODEL_CHARS_MAX):
        hint = f"send the name of what makes the vectors, of 1 to {MODEL_CHARS_MAX} characters"
        raise InputError("model is not a name", hint=hint, param="model")
    return NewIndex(metric, dimension, ids, vectors, _attributes(fields.get("attributes", [])), model)


def _one_of(value: Any, known: tuple[str, ...], param: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{param} is none of those there are", hint=f"known are: {', '.join(known)}", param=param)
    return value


def _attributes(value: Any) -> tuple[Attribute, ...]:
    if not isinstance(value, list):
        raise InputError("attributes is not a list", hint=EXAMPLE, param="attributes")
    if len(value) > ATTRIBUTES_MAX:
        hint = "send fewer, or put some into one of type json"
        raise LimitError("the number of attributes", len(value), ATTRIBUTES_MAX, hint=hint, param="attributes")
    out: dict[str, Attribute] = {}
    for i, one in enumerate(value):
        where = f"attributes[{i}]"
        attribute = _attribute(one, where)
        if attribute.name in out:
            what = f"{where} has the name of another one"
            raise InputError(what, hint="give each a name of its own", param=f"{where}.name")
        out[attribute.name] = attribute
    nbytes = len(json.dumps([{"name": one.name, "type": one.type} for one in out.values()]))
    if nbytes > SCHEMA_BYTES:
        what = "the length of all names and types, in bytes,"
        raise LimitError(what, nbytes, SCHEMA_BYTES, hint="send fewer or shorter ones", param="attributes")
    return tuple(out.values())


def _attribute(value: Any, where: str) -> Attribute:
    if not isinstance(value, dict):
        raise InputError(f"{where} is not an object", hint='{"name": "lang", "type": "text"}', param=where)
    for field in value:
        check_known(field, ATTRIBUTE_FIELDS, f"{where}.{field}")
    name: Any = value.get("name")
    inside = f"{where}.name"
    length = _utf8_bytes(name)
    if not length:
        raise InputError(f"{inside} is not a string with characters", hint='"lang"', param=inside)
    if length > ATTRIBUTE_NAME_BYTES_MAX:
        what = f"the length of {inside}, in bytes,"
        raise LimitError(what, length, ATTRIBUTE_NAME_BYTES_MAX, hint="take a shorter one", param=inside)
    kind = _one_of(value.get("type"), tuple(TYPES), f"{where}.type")
    many, filtered = (_flag(value, flag, kind, where) for flag in ("list", "filter"))
    if many and kind != "text":
        what = f"{where}.list: there are lists of texts alone"
        raise InputError(what, hint="other lists are of type json", param=f"{where}.list")
    if filtered and (name.startswith("$") or name in RESERVED):
        what = f"{inside} begins with $, as operators of filters do"
        raise InputError(what, hint='take another name, or send "filter": false', param=inside)
    return Attribute(name, TEXTS if many else TYPES[kind], kind if filtered else None, many and filtered)


def _utf8_bytes(value: Any) -> int | None:
    """The length of a string; None for what is none, or has a surrogate alone."""
    try:
        return len(value.encode()) if isinstance(value, str) else None
    except UnicodeEncodeError:
        return None


def _flag(value: Mapping[str, Any], name: str, kind: str, where: str) -> bool:
    """list, false where it is not said; filter, true where it is not said and the type allows it."""
    own = value.get(name, name == "filter" and kind != "json")
    if not isinstance(own, bool):
        raise InputError(f"{where}.{name} is neither true nor false", hint="or leave it out", param=f"{where}.{name}")
    if own and name == "filter" and kind == "json":
        what = f"{where}.filter: json is only stored"
        raise InputError(what, hint="give what filters look at a type of its own", param=f"{where}.filter")
    return own
