"""Rows of an index by a filter, as many pages as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from vantage.errors import InputError
from vantage.index import Index
from vantage.search.listing import LIMIT_MAX, Listing, Page, prepare_listing


def list_pages(
    index: Index,
    filter: Any = None,
    *,
    limit: int | None = None,
    order_by: Mapping[str, str] | None = None,
    distinct: str | None = None,
) -> Iterator[Page]:
    """Pages of rows with their attributes, of `limit` rows in all; None: of all that there are. See Listing.

    Raises InputError, with the first page, for what this index cannot list.
    """
    if limit is not None and limit < 1:
        raise InputError(f"there are no rows in a limit of {limit}", hint="ask for one at least", param="limit")
    cursor, left = None, limit
    while left is None or left > 0:
        most = LIMIT_MAX if left is None else min(left, LIMIT_MAX)
        listing = Listing(filter, most, cursor, order_by, distinct)
        page = asyncio.run(index.list_rows(prepare_listing(index.segment, listing)))
        yield page
        cursor, left = page.cursor, None if left is None else left - len(page.rows)
        if cursor is None:
            return
