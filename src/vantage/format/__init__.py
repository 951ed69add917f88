"""Every byte layout of format v1, declared once, packed and unpacked here; docs/format.md is its prose.

Little-endian. Objects start with a header and a table of sections, 64-byte aligned, each with length, version and
CRC-32C. A section holds numbers as columns, so that a reader casts them and never parses a row at a time. All that
comes from the store is checked here before anything uses it; what fails is a DamagedError that names the place.
"""

from .codecs import (
    FIELD,
    FINE_MAX,
    SEGMENT,
    LrsqSection,
)
from .current import (
    ROOT_BYTES_MAX,
    Current,
    ObjectName,
    part_key,
    shard_key,
)
from .index import (
    IndexSection,
)
from .layout import (
    ATTRIBUTES,
    DIMENSION_MAX,
    GROUP,
    HEADER,
    METRICS,
    SCAN,
    SECTION,
    SHARD_MAGIC,
    VECTOR_BYTES,
    VERSION,
    aligned,
    damaged,
    pack_head,
)
from .root import (
    ID_ENTRY_BYTES,
    ID_PAGE_ROWS,
    PRICED_MAX,
    RERANK_MAX,
    Centres,
    Contract,
    Directory,
    Estimator,
    IdPages,
    Objects,
    Point,
    Promise,
    Root,
    Stop,
    VectorPages,
)
from .routers import (
    LseSection,
    RouterSection,
    TwoLevelSection,
)
from .shard import (
    RANGES_AT,
    attributes_at,
    block_planes,
    id_at,
    id_width,
    pack_attributes,
    pack_block,
    pack_ids,
)

__all__ = [
    "ATTRIBUTES",
    "Centres",
    "Contract",
    "Current",
    "DIMENSION_MAX",
    "Directory",
    "Estimator",
    "FIELD",
    "FINE_MAX",
    "GROUP",
    "HEADER",
    "ID_ENTRY_BYTES",
    "ID_PAGE_ROWS",
    "IdPages",
    "IndexSection",
    "LrsqSection",
    "LseSection",
    "METRICS",
    "ObjectName",
    "Objects",
    "PRICED_MAX",
    "Point",
    "Promise",
    "RANGES_AT",
    "RERANK_MAX",
    "ROOT_BYTES_MAX",
    "Root",
    "RouterSection",
    "SCAN",
    "SECTION",
    "SEGMENT",
    "SHARD_MAGIC",
    "Stop",
    "TwoLevelSection",
    "VECTOR_BYTES",
    "VERSION",
    "VectorPages",
    "aligned",
    "attributes_at",
    "block_planes",
    "damaged",
    "id_at",
    "id_width",
    "pack_attributes",
    "pack_block",
    "pack_head",
    "pack_ids",
    "part_key",
    "shard_key",
]
