"""The builder, its CLI and `VectorIndex`: turns vectors into an index. Imports `vantage`, never the reverse."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .vector_index import VectorIndex

__all__ = ["VectorIndex"]


def __getattr__(name: str) -> Any:
    if name == "VectorIndex":  # imported when it is wanted: the command line has no use for it
        try:
            from .vector_index import VectorIndex
        except ModuleNotFoundError as error:
            from .needed import missing

            if sentence := missing():
                raise ImportError(sentence, name=error.name) from None
            raise
        return VectorIndex
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
