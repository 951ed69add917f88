"""Query -> probability of each block that it holds answers. One file for each router, one interface, one table.

Not here: training (`build_index.routers`) and what a router stores (`vantage.format.routers`).
"""

from __future__ import annotations

from typing import Any

from .bec_tree import BecTreeRouter
from .ecvh import EcvhRouter
from .lse import LseRouter
from .mlp import MlpRouter
from .tree import TreeRouter
from .two_level import TwoLevelRouter

ROUTERS: dict[str, Any] = {
    "centroids": LseRouter,
    "lse": LseRouter,
    "trained": LseRouter,
    "two-level": TwoLevelRouter,
    "mlp": MlpRouter,
    "tree": TreeRouter,
    "ecvh": EcvhRouter,
    "two-level-ecvh": TwoLevelRouter,
    "bec-tree": BecTreeRouter,
}
