"""The section of ecvh."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..index import IndexSection
from ..layout import Cursor, aligned, damaged, finite
from .lse import LseSection

_ECVH = struct.Struct("<IIIff")
WORD_MAX = 1024  # bits of a codeword
SIGNS_BYTES_MAX = 16 << 20  # of the table of i8 that a reader makes of words or prefixes, a row a block
MESSAGE_MAX = 32  # bits of a message


@dataclass(frozen=True)
class EcvhSection:
    """Error-correcting vantage hashing: n directions, and the codeword of each block, in a linear code of n bits.

    bits: of the directions, 4 or 8. table: rows of d dimensions, as in LseSection. scale, bias f32 (n): margin i
    of a query is scale_i <q, row_i> + bias_i, cut at the norm of the query. generator u32 (n): bit i of the codeword of
    message u is the parity of u & generator_i. messages: message_bits planes of ceil(B / 8) bytes; bit b % 8 of byte
    b / 8 of plane j is bit j of the message of block b. A block's score: temperature * beta * the sum of the margins,
    those where its codeword has a 1 subtracted.
    """

    bits: int
    message_bits: int
    beta: float
    temperature: float
    scale: memoryview
    bias: memoryview
    generator: memoryview
    messages: memoryview
    table: memoryview

    def pack(self) -> bytes:
        n = len(self.scale)
        return (
            _ECVH.pack(n, self.bits, self.message_bits, self.beta, self.temperature)
            + struct.pack(f"<{n}f{n}f{n}I", *self.scale, *self.bias, *self.generator)
            + bytes(self.messages)
            + bytes(self.table)
        )

    def columns(self, blocks: int) -> list[int]:
        """Bit b of number i is bit i of the codeword of block b."""
        step, out = -(-blocks // 8), []
        planes = [int.from_bytes(self.messages[j * step : (j + 1) * step], "little") for j in range(self.message_bits)]
        for g in self.generator:
            column = 0
            for j, plane in enumerate(planes):
                if g >> j & 1:
                    column ^= plane
            out.append(column)
        return out

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> EcvhSection:
        cursor = Cursor(body, label)
        n, bits, message_bits, beta, temperature = cursor.unpack(_ECVH)
        if bits not in (4, 8) or not 1 <= n <= WORD_MAX or not 1 <= message_bits <= MESSAGE_MAX:
            raise damaged(label, f"{n} directions of {bits} bits, messages of {message_bits} bits")
        if not 0 < beta < 1e9 or not 0 < temperature < 1e3:
            raise damaged(label, f"beta {beta}, temperature {temperature}")
        if aligned(n, 16) * index.blocks > SIGNS_BYTES_MAX:
            raise damaged(label, f"words of {n} bits for {index.blocks} blocks take over {SIGNS_BYTES_MAX} bytes")
        scale, bias, generator = cursor.column("f", n), cursor.column("f", n), cursor.column("I", n)
        messages = cursor.take(message_bits * -(-index.blocks // 8))
        table = cursor.take(n * LseSection.stride(bits, index.dimension))
        cursor.end()
        finite(label, scale, bias)
        if any(not 0 < g < 1 << message_bits for g in generator):
            raise damaged(label, f"the generator asks for other bits than the {message_bits} of a message")
        return cls(bits, message_bits, beta, temperature, scale, bias, generator, messages, table)
