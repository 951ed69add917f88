"""What every router's section can do."""

from __future__ import annotations

from typing import Protocol


class RouterSection(Protocol):
    """What every router's section can do; each also has unpack(body, index, label)."""

    def pack(self) -> bytes: ...
