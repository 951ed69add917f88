"""Plays recorded kernel calls to whatever `kern` is importable and reports what differs: python replay.py CALLS.json

Standard library only, because it runs in Pyodide too. A call is [name, arguments, result, outputs]: an argument is a
number or [writable, base64 bytes], the result an int or the text of a ValueError, and outputs the base64 bytes of the
writable arguments afterwards, null for what is nobody's concern.
"""

import json
import sys
from base64 import b64decode
from pathlib import Path

import kern


def differences(calls: list) -> list[str]:
    found = []
    for at, (name, arguments, result, outputs) in enumerate(calls):
        args = [(bytearray if a[0] else bytes)(b64decode(a[1])) if isinstance(a, list) else a for a in arguments]
        try:
            got = getattr(kern, name)(*args)
        except ValueError as error:
            got = str(error)
        if got != result:
            found.append(f"call {at}, {name}: {got!r} instead of {result!r}")
        written = [a for a in args if isinstance(a, bytearray)]
        for i, (buffer, want) in enumerate(zip(written, outputs, strict=True)):
            if want is not None and buffer != b64decode(want):
                found.append(f"call {at}, {name}: output {i} differs")
    return found


if __name__ == "__main__":
    calls = json.loads(Path(sys.argv[1]).read_text())
    found = differences(calls)
    print(f"{len(calls)} calls on {sys.platform}, {len(found)} differences", *found[:20], sep="\n")
    sys.exit(bool(found))
