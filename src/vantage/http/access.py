"""Who may ask: bearer tokens, host names, and the pages of other origins."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import VantageError


class AccessError(VantageError):
    """No token, or a wrong one."""

    code = "unauthorized"
    status = 401


class WriteAccessError(VantageError):
    """What changes an index is asked for without the token for writes."""

    code = "forbidden"
    status = 403


class HostError(VantageError):
    """The request is for a host name that this service does not answer to."""

    code = "wrong_host"
    status = 421


@dataclass(frozen=True)
class Access:
    """Who may ask. token None and not public: nobody, but for health. public: everybody, whatever token is sent.
    write_token: who sends it may write, and read; None: nobody writes.

    origins: those whose pages a browser lets read answers, "*" for all. hosts: the only host names that requests may
    be for, none for any; a page that points its own name at this machine sends that name.
    """

    token: str | None = None
    public: bool = False
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    write_token: str | None = None


def cors_headers(origin: str | None, access: Access) -> dict[str, str]:
    """What lets a page of an allowed origin read the answer, an error too."""
    if not access.origins:
        return {}
    every = "*" in access.origins
    headers = {} if every else {"vary": "Origin"}
    if origin and (every or origin in access.origins):
        headers["access-control-allow-origin"] = "*" if every else origin
        headers["access-control-expose-headers"] = "Allow, Retry-After, WWW-Authenticate"
    return headers


def has_token(headers: Mapping[str, str], access: Access) -> bool:
    """Whether a token of the service was sent, that for reads or that for writes."""
    return _sent(headers, access.token) or _sent(headers, access.write_token)


def _sent(headers: Mapping[str, str], token: str | None) -> bool:
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    own = (token or "").encode()
    return bool(own) and scheme.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), own)


def authorize(headers: Mapping[str, str], access: Access) -> None:
    if access.public or has_token(headers, access):
        return
    if not access.token:
        raise AccessError(
            "this service has no token yet, so it answers nothing but health",
            hint='set the secret VANTAGE_TOKEN, or PUBLIC_READ = "1" to let everybody read',
        )
    sent = headers.get("authorization", "").partition(" ")[2]
    what = "the bearer token is wrong" if sent else "there is no bearer token"
    raise AccessError(what, hint="send Authorization: Bearer with the token of this service")


def authorize_write(headers: Mapping[str, str], access: Access) -> None:
    """Raises WriteAccessError without the token for writes, whatever else is sent or open."""
    if not access.write_token or access.write_token == access.token:
        what = "has no token for writes yet" if not access.write_token else "has one token for reads and writes"
        hint = "set the secret VANTAGE_WRITE_TOKEN, to another token than VANTAGE_TOKEN"
        raise WriteAccessError(f"this service {what}, so it takes none", hint=hint)
    if not _sent(headers, access.write_token):
        hint = "send Authorization: Bearer with VANTAGE_WRITE_TOKEN of this service"
        raise WriteAccessError("the bearer token is not that for writes", hint=hint)


def check_host(host: str, access: Access) -> None:
    name = host.strip().lower()
    name = name[: name.index("]") + 1] if name.startswith("[") and "]" in name else name.partition(":")[0]
    if access.hosts and name not in access.hosts:
        raise HostError(
            f"this service does not answer to the name {name[:80]!r}", hint=f"use {', '.join(access.hosts)}"
        )
