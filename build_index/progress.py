"""How work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str, float], None]  # phase, share done
