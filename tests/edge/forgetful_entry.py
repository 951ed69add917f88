"""The Worker as it is, but POST /forget makes its isolate cold: main of the project of bench/warm.py."""

from typing import Any
from urllib.parse import urlsplit

from workers import Response

import entry
from entry import WarmIndex  # noqa: F401  wrangler looks for the classes of the Worker here


class Default(entry.Default):
    """HTTP."""

    async def fetch(self, request: Any) -> Any:
        if urlsplit(request.url).path != "/forget":
            return await super().fetch(request)
        entry._service = None
        return Response("")
