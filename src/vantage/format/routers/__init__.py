"""Sections of the routers, one file each; the table names them as the index section does.

Not here: how a query is routed (`vantage.search.route`) and how a router is trained (`build_index.routers`).
"""

from __future__ import annotations

from typing import Any

from .bec_tree import BecTreeSection
from .ecvh import EcvhSection
from .lse import LseSection
from .mlp import MlpSection
from .tree import TreeSection
from .two_level import TwoLevelSection

ROUTER_SECTIONS: dict[str, Any] = {
    "centroids": LseSection,
    "lse": LseSection,
    "trained": LseSection,
    "two-level": TwoLevelSection,
    "mlp": MlpSection,
    "tree": TreeSection,
    "ecvh": EcvhSection,
    "two-level-ecvh": TwoLevelSection,
    "bec-tree": BecTreeSection,
}
