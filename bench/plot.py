"""The curves of build_index.evaluate.picture, for the scripts of this folder."""

from build_index.evaluate.picture import Axis, curves

__all__ = ["Axis", "curves"]
