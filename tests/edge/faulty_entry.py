"""The Worker as it is, but its bucket fails by seed: main of the project that bench/faults/soak.py puts together.

POST /faults takes {"seed", "rates", "generations", "timeout_s", "ttl_s", "cache_bytes", "switch"}. GET tells what
was met.
"""

import json
from typing import Any
from urllib.parse import urlsplit

from faults import Faults, FaultyBucket
from workers import Response

import entry
from entry import IndexLog, WarmIndex  # noqa: F401  wrangler looks for the classes of the Worker here
from vantage import indexes
from vantage.read import reader

_R2Bucket = entry.R2Bucket


class _Shared:
    """The faults of this isolate; the buckets that read through them outlive a change."""

    faults: Faults | None = None


def _bucket(binding: Any) -> FaultyBucket:
    if _Shared.faults is None:
        _Shared.faults = Faults(0, {})
    return FaultyBucket(_R2Bucket(binding), _Shared.faults)


entry.R2Bucket = _bucket


class Default(entry.Default):
    """HTTP."""

    async def fetch(self, request: Any) -> Any:
        if urlsplit(request.url).path != "/faults":
            return await super().fetch(request)
        if request.method == "POST":
            wanted = json.loads(await request.text())
            reader.TIMEOUT_S = wanted["timeout_s"]
            indexes.REVALIDATE_S = entry.REVALIDATE_S = wanted["ttl_s"]
            self._service().cache.budget = wanted["cache_bytes"]
            faults = Faults(wanted["seed"], wanted["rates"], [text.encode() for text in wanted["generations"]])
            if _Shared.faults is None:
                _Shared.faults = faults
            else:  # the service's bucket keeps the object; counts and what is live go on
                counts, live = _Shared.faults.counts, _Shared.faults.live
                vars(_Shared.faults).update(vars(faults), counts=counts, live=live)
            if wanted["switch"]:
                _Shared.faults.switch()
        found = _Shared.faults
        told = {"counts": dict(found.counts), "live": found.live} if found else {}
        return Response(json.dumps(told), headers={"content-type": "application/json"})
