"""SHA-256 by the platform: in Wasm, Python's own takes 6 ms a megabyte, which an opening would wait for."""

from __future__ import annotations

import hashlib
import sys


async def sha256_hex(data: bytes | bytearray) -> str:
    """SHA-256 of data, in hex: WebCrypto's in a Worker, hashlib's elsewhere."""
    if sys.platform != "emscripten":
        return hashlib.sha256(data).hexdigest()
    from js import Uint8Array, crypto

    whole = Uint8Array.new(len(data))
    whole.assign(data)
    digest = await crypto.subtle.digest("SHA-256", whole)
    return str(digest.to_bytes().hex())
