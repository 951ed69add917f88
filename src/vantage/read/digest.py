"""SHA-256 by the platform: in Wasm, Python's own takes 6 ms a megabyte, which an opening would wait for."""

from __future__ import annotations

import hashlib
import sys


async def sha256_hex(data: bytes | bytearray) -> str:
    """SHA-256 of data, in hex: WebCrypto's in a Worker, hashlib's elsewhere."""
    if sys.platform == "emscripten":
        from js import Uint8Array, crypto
        from pyodide.ffi import JsException

        whole = Uint8Array.new(len(data))
        whole.assign(data)
        try:
            return str((await crypto.subtle.digest("SHA-256", whole)).to_bytes().hex())
        except JsException:
            pass  # an isolate that saves a snapshot may not call it
    return hashlib.sha256(data).hexdigest()
