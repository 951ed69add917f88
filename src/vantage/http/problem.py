"""Errors as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConditionError, InputError, LimitError, VantageError
from .bodies import json_id
from .reply import Reply
from .request import MediaError

RETRY_S = {429: 10, 503: 1}  # a compaction takes longer than others' requests
PROBLEMS = "docs/problems.md"  # of the source: what each type means, and what to do


def problem(error: VantageError, request_id: str) -> Reply:
    """type, title, status, detail, code, param, hint, request_id; a limit error adds value and limit, a condition that
    fails id and seq.
    """
    body: dict[str, Any] = {
        "type": f"{PROBLEMS}#{error.code}",
        "title": error.code.replace("_", " "),
        "status": error.status,
        "detail": error.message,
        "code": error.code,
        "param": error.param or None,
        "hint": error.hint or None,
        "request_id": request_id[:64],
    }
    if isinstance(error, LimitError):
        body |= {"value": error.value, "limit": error.limit}
    if isinstance(error, ConditionError):
        body |= {"id": None if error.id is None else json_id(error.id, None), "seq": error.seq}
    headers = {"content-type": "application/problem+json"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodError):
        headers["allow"] = error.allow
    if isinstance(error, MediaError):
        headers["accept-encoding"] = "gzip"
    if error.status in RETRY_S:
        headers["retry-after"] = str(RETRY_S[error.status])
    reply = Reply(error.status, body, headers)
    reply.write()
    return reply


class MethodError(InputError):
    """The path is right, the method is not; `allow` names those that are."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, method: str, methods: Sequence[str]) -> None:
        super().__init__(f"{method[:80]} is not possible here", hint=f"use {methods[0]}", param="method")
        self.allow = ", ".join(methods)
