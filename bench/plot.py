"""The curves of build_index.picture, for the scripts of this folder."""

from build_index.picture import Axis, curves

__all__ = ["Axis", "curves"]
