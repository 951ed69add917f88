"""Where an S3-compatible store is asked: from the environment, by scheme. For sources and for published indexes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from vantage.errors import InputError


def endpoint_of(scheme: str, environment: Mapping[str, str]) -> str | None:
    """Where a bucket is asked; None: S3 itself. InputError where that is not known, or keys would go in the clear."""
    endpoint, account = environment.get("AWS_ENDPOINT_URL"), environment.get("CLOUDFLARE_ACCOUNT_ID")
    if endpoint:
        plain = not endpoint.startswith("https://")
        if plain and urlsplit(endpoint).hostname not in ("127.0.0.1", "::1", "localhost"):
            raise InputError(
                "the endpoint is not https", hint="AWS_ENDPOINT_URL must begin with https:// off this machine"
            )
        return endpoint
    if scheme != "r2":
        return None
    if not account or not re.fullmatch("[0-9a-f]{32}", account):
        raise InputError(
            "r2://: which account is not known", hint="set CLOUDFLARE_ACCOUNT_ID, 32 hex digits, or AWS_ENDPOINT_URL"
        )
    return f"https://{account}.r2.cloudflarestorage.com"
