"""The Worker as it is, but POST /filter evaluates a filter on columns that it is sent: main of the project of
bench/filter_cpu.py.

?times= so often.
"""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from filter_work import rows_taken
from workers import Response

import entry
from entry import IndexLog, WarmIndex  # noqa: F401  wrangler looks for the classes of the Worker here


class Default(entry.Default):
    """HTTP."""

    async def fetch(self, request: Any) -> Any:
        url = urlsplit(request.url)
        if url.path != "/filter":
            return await super().fetch(request)
        times = int(parse_qs(url.query)["times"][0])
        return Response(str(rows_taken(json.loads(await request.text()), times)))
