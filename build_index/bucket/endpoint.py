"""Finds the endpoint of an S3-compatible store in the environment, for sources and for published indexes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from vantage.errors import InputError

# Of a URL what two parsers cannot read in two ways: no user, no backslash, no blank, no query, no fragment.
_ENDPOINT = re.compile(
    r"(https?)://([A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?"
    r"((?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*)/?",
    re.IGNORECASE | re.ASCII,
)


def endpoint_of(scheme: str, environment: Mapping[str, str]) -> str | None:
    """Where a bucket is asked, as scheme://host[:port][/path]; None: S3 itself.

    Raises InputError where that is not known, where it is no plain address, or where keys would go in the clear.
    """
    # The variable of S3 alone comes first, as in other tools.
    name = "AWS_ENDPOINT_URL_S3" if environment.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
    endpoint, account = environment.get(name), environment.get("CLOUDFLARE_ACCOUNT_ID")
    if endpoint:
        return _plain(endpoint, name)
    if scheme != "r2":
        return None
    if not account or not re.fullmatch("[0-9a-f]{32}", account):
        raise InputError(
            "r2://: which account is not known", hint="set CLOUDFLARE_ACCOUNT_ID, 32 hex digits, or AWS_ENDPOINT_URL"
        )
    return f"https://{account}.r2.cloudflarestorage.com"


def _plain(endpoint: str, name: str) -> str:
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or ".." in match[2] or (match[2][0] == "[" and _address(match[2]) is None):
        raise InputError(
            f"{name} is no plain address", hint="write https://host, with a port or a path where it has one; no more"
        )
    scheme, host = match[1].lower(), match[2].lower()
    if match[3] is not None and not 1 <= int(match[3]) <= 65535:
        raise InputError(f"{name} names port {match[3]}", hint="ports are 1 to 65535")
    address = _address(host)
    if scheme == "http" and host != "localhost" and not (address is not None and address.is_loopback):
        raise InputError("the endpoint is not https", hint=f"{name} must begin with https:// off this machine")
    return f"{scheme}://{host}{f':{int(match[3])}' if match[3] else ''}{match[4]}"


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
