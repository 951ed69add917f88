"""The Worker as it is, but POST /forget makes its isolate cold: main of the project of bench/warm.py.

?timeout_ms= is how long the isolate then waits for the warm object; 0: it does not ask.
"""

from typing import Any
from urllib.parse import parse_qs, urlsplit

from workers import Response

import entry
from entry import IndexLog, WarmIndex  # noqa: F401  wrangler looks for the classes of the Worker here
from vantage.read import warm


class Default(entry.Default):
    """HTTP."""

    async def fetch(self, request: Any) -> Any:
        url = urlsplit(request.url)
        if url.path != "/forget":
            return await super().fetch(request)
        entry._service = None
        warm.ASK_TIMEOUT_S = float(parse_qs(url.query)["timeout_ms"][0]) / 1000
        if not warm.ASK_TIMEOUT_S:
            self._service().warm_client = None
        return Response("")
