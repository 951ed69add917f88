"""Every error Vantage raises, split by what the caller can do about it.

VantageError
├── InputError        fix the request or the source: wrong type, size, name or value
│   ├── LimitError    a stated limit was passed: carries the limit and the value sent
│   ├── NotFoundError no such index, row or column
│   ├── ExistsError   an index of this name is there, which holds other rows
│   └── ConditionError a write's condition does not hold: carries the row and its seq
├── LogFullError      writes came faster than they were compacted: compact, and try again
├── DamagedError      the index does not hold together: publish or build it again
└── StoreError        the bucket did not answer: try again later
    ├── BehindError   a write that the request wants to see was not seen in time: ask again
    └── ChangedError  an object is not the one first seen (412): open the index again
"""


class VantageError(Exception):
    """Base of all; `code` is the stable name used in problem details, `hint` says what to do."""

    code = "internal"
    status = 500

    def __init__(self, message: str, *, hint: str = "", param: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """For pickle, whatever the arguments of a subclass: an error of a build's worker is the user's to read."""
        return _made_again, (type(self), self.args, vars(self))


def _made_again(kind: type[VantageError], args: tuple[object, ...], state: dict[str, object]) -> VantageError:
    out = kind.__new__(kind, *args)
    vars(out).update(state)
    return out


class InputError(VantageError, ValueError):
    """The request or the source is wrong; nothing was changed."""

    code = "invalid_input"
    status = 400


class LimitError(InputError):
    """A stated limit was passed."""

    code = "limit_exceeded"

    def __init__(self, what: str, value: object, limit: object, *, hint: str = "", param: str = "") -> None:
        super().__init__(f"{what} is {value}, the limit is {limit}", hint=hint, param=param)
        self.value = value
        self.limit = limit


class NotFoundError(InputError):
    """No such index, row or column."""

    code = "not_found"
    status = 404


class ExistsError(InputError):
    """An index of this name is there already, and is not like the one that was to be made."""

    code = "index_exists"
    status = 409


class ConditionError(InputError):
    """A condition of a write does not hold; nothing was written. id: of the row, None where it is of the whole index;
    seq: the row's last write, 0 as it was built, None where no row has this id.
    """

    code = "condition_failed"
    status = 409

    def __init__(
        self, message: str, id: int | bytes | None, seq: int | None, *, hint: str = "", param: str = ""
    ) -> None:
        super().__init__(message, hint=hint, param=param)
        self.id = id
        self.seq = seq


class LogFullError(VantageError):
    """The log holds as much as readers take; nothing was written."""

    code = "log_full"
    status = 429


class DamagedError(VantageError):
    """Bytes of the index are not what its root says they are; no answer is given from them."""

    code = "damaged_index"
    status = 500


class StoreError(VantageError):
    """The bucket failed or timed out, after the retry; names the object."""

    code = "store_unavailable"
    status = 503


class BehindError(StoreError):
    """A write that the request wants to see has not been seen in time."""

    code = "behind"


class ChangedError(StoreError):
    """An object changed under its key (If-Match failed): open the index again."""

    code = "object_changed"
