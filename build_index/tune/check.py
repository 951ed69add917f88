"""Checks that options fit each other and the rows, before anything is read."""

from __future__ import annotations

from vantage.errors import InputError, LimitError
from vantage.format import DIMENSION_MAX, METRICS, ROOT_BYTES_MAX

from ..blocks import PARTITIONS
from ..blocks.copies import COPIES_MAX, COPY_RULES
from ..codecs import CODECS
from ..codecs.rotations import ROTATIONS
from ..routers import ROUTERS
from .draft import block_counts
from .options import TRAINING_BYTES_MIN, Options

SEED_MAX = (1 << 31) - 2  # faiss takes an int, one more
MODEL_CHARS_MAX = 200
DIRECTORY_BYTES = 16  # of a block in root.bin, beside its centre that error norms need
MEMORY_MIN = 640 << 20  # the imports and the fixed buffers


def check_options(rows: int, dimension: int, options: Options, metric: str) -> None:
    """Raises InputError or LimitError for so many rows and dimensions, or for options that do not fit together."""
    if metric not in METRICS:
        raise InputError(f"there is no metric {metric!r}", hint=f"known are: {', '.join(METRICS)}")
    if dimension > DIMENSION_MAX:
        raise LimitError("the dimension", dimension, DIMENSION_MAX, hint="reduce the vectors first")
    if not rows:
        raise InputError("there are no rows", hint="an index needs one at least")
    least = min(block_counts(rows)) * (DIRECTORY_BYTES + dimension)
    if options.error_norms and least > ROOT_BYTES_MAX:
        raise LimitError(
            f"root.bin, with the centres of {min(block_counts(rows)):,} blocks, in bytes,", least, ROOT_BYTES_MAX,
            hint="leave --error-norms out, or split the rows over several indexes",
        )  # fmt: skip
    if not 0 < options.recall < 1:
        raise LimitError("--recall", options.recall, "between 0 and 1", hint="0.95 is a usual target")
    if not 1 <= options.k <= 100:
        raise LimitError("--k", options.k, "1 to 100", hint="answers may still have up to 1000 rows")
    for what, name, known in (
        ("--partition", options.partition, PARTITIONS), ("--router", options.router, ROUTERS),
        ("--copies", options.copies, COPY_RULES), ("--codec", options.codec, CODECS),
        ("--rotation", options.rotation, ROTATIONS),
    ):  # fmt: skip
        if name is not None and name not in known:
            raise InputError(f"{what} is {name!r}", hint=f"known are: {', '.join(known)}")
    if options.vectors not in (None, "f16", "f32"):
        raise InputError(f"--vectors is {options.vectors!r}", hint="f16 or f32")
    if options.model is not None and not 1 <= len(options.model) <= MODEL_CHARS_MAX:
        raise LimitError("the length of --model", len(options.model), f"1 to {MODEL_CHARS_MAX} characters")
    if options.copies_share is not None and not 0 <= options.copies_share <= COPIES_MAX:
        raise LimitError("--copies-share", options.copies_share, f"0 to {COPIES_MAX}")
    if options.copies == "none" and options.copies_share:
        raise InputError(f"--copies none, and --copies-share {options.copies_share}", hint="leave one of them out")
    if options.copies not in (None, "none") and options.copies_share == 0:
        raise InputError(f"--copies {options.copies}, and --copies-share 0", hint="leave one of them out")
    own = options.router if options.router in PARTITIONS else None  # routers that know blocks of their own kind alone
    if own and options.partition not in (None, own):
        raise InputError(f"the router {own} on the partition {options.partition}", hint=f"it takes --partition {own}")
    if options.router is not None and options.fast and ROUTERS[options.router].trains:
        raise InputError(f"--fast trains nothing, and --router {options.router} is trained", hint="leave one out")
    if options.router is not None and ROUTERS[options.router].trains and options.memory_bytes < TRAINING_BYTES_MIN:
        raise LimitError(
            "--memory-budget", options.memory_bytes, f"at least {TRAINING_BYTES_MIN} bytes to train a router",
            hint=f"allow 1GiB, or leave out --router {options.router}",
        )  # fmt: skip
    if not 0 <= options.seed <= SEED_MAX:
        raise LimitError("--seed", options.seed, f"0 to {SEED_MAX}")
    if options.memory_bytes < MEMORY_MIN:
        raise LimitError(
            "--memory-budget", options.memory_bytes, f"at least {MEMORY_MIN} bytes", hint="640MiB is the least"
        )
