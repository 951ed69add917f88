"""manifest.json: what an index was made from, and how."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from vantage import VERSION as VANTAGE_VERSION
from vantage.format import VERSION, Contract, Promises

from ..ingest.attributes import schema_of
from ..ingest.rows import Rows
from ..tune.choose import Choice
from ..tune.options import Options

CHOSEN = (
    "partition",
    "router",
    "copies",
    "copies_share",
    "rotation",
    "fast",
    "vectors",
)  # options that leave less to choose


def manifest_of(rows: Rows, attributes: pa.Schema, choice: Choice, options: Options, kind: str) -> dict[str, Any]:
    """What manifest.json says of an index whose vectors are stored as `kind`, but for its generation and objects."""
    return {
        "format": VERSION,
        "builder": VANTAGE_VERSION,
        "rows": rows.count,
        "dimension": rows.dimension,
        "metric": rows.metric,
        "id": rows.stored.id_kind,
        "vectors": kind,
        "attributes": schema_of(attributes),
        **({"model": options.model} if options.model else {}),
        "seed": options.seed,
        "cache_bytes": options.cache_bytes,
        "memory_bytes": options.memory_bytes,
        "options": _asked(options, choice.contract),
        "blocks": choice.layout.blocks,
        "copies": choice.layout.copies,
        "router": {"name": choice.layout.router, "bytes": len(choice.layout.section.pack())},
        "codec": {
            "name": choice.codec.name,
            "code_bytes": choice.codec.code_bytes,
            "axes": len(choice.codec.axes),
            **({"longer": choice.longer.code_bytes} if choice.longer else {}),
        },
        "rotation": {"name": choice.rotation, "bytes": len(choice.codec.rotation.pack())},
        "contract": contract_dict(choice.contract, choice.promises, options),
        "tried": choice.tried,
    }


def _asked(options: Options, contract: Contract) -> dict[str, Any]:
    """What a build was told beyond what the index says of itself: a contract may keep less than was asked for."""
    asked = {name: getattr(options, name) for name in CHOSEN}
    more = {"recall": options.recall} if contract.target < options.recall else {}
    more |= {"k": options.k} if contract.k < options.k else {}
    return {name: value for name, value in asked.items() if value is not None and value is not False} | more


def contract_dict(contract: Contract, promises: Promises, options: Options) -> dict[str, Any]:
    """What the manifest says of recall."""
    return {
        "k": contract.k,
        "target": contract.target,
        "gets": contract.gets,
        "points": [vars(p) for p in contract.points],
        "second_wave": options.second_wave,
        "promises": [vars(p) for p in promises.by_recall],
        "estimators": [vars(e) for e in promises.estimators],
    }
