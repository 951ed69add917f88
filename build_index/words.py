"""Words of signs: directions and a linear code, which give each vector the codeword that agrees best with its margins.

The routing half of error-correcting vantage hashing (ECVH): margins <x, w_i> - t_i of a vector to n vantage
directions, decoded softly, that is to the codeword c of the largest sum_i s_i(c) (<x, w_i> - t_i), s_i = 1 where bit i of
c is 0 and -1 where it is 1. Codewords are few enough that all of them are tried, so decoding is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.format import codewords

from .rows import F32, Ints

GOLAY = 0b110001110101  # x^11 + x^10 + x^6 + x^5 + x^4 + x^2 + 1: generates the perfect code (23, 12, 7)
GOLAY_BITS, GOLAY_MESSAGE = 23, 12
U16 = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Words:
    """directions f32 (n, d), threshold f32 (n). generator u16 (n): bit i of the codeword of message u is the parity of
    u & generator_i. message u16 (B): of each block. beta: the probability of a block is the softmax of beta times its
    sum of signed margins.
    """

    directions: F32
    threshold: F32
    generator: U16
    message: U16
    message_bits: int
    beta: float

    def signs(self) -> F32:
        """f32 (B, n): of each block's codeword."""
        return signs(self.generator, self.message_bits)[self.message]

    def scores(self, x: F32) -> F32:
        """f32 (len(x), B): sums of signed margins."""
        out: F32 = (x @ self.directions.T - self.threshold) @ self.signs().T
        return out

    def reordered(self, order: Ints) -> Words:
        """The same with block order[i] as number i."""
        return replace(self, message=self.message[order])


def golay(message_bits: int = GOLAY_MESSAGE) -> U16:
    """Generator of the Golay code (23, 12, 7), shortened to messages of fewer bits: 11 + message_bits columns.

    Systematic: bit i of a codeword is bit i of its message, for each bit of the message. Every word of 23 bits is
    within distance 3 of exactly one of the 4,096 codewords. Raises InputError for no bits or over 12.
    """
    if not 1 <= message_bits <= GOLAY_MESSAGE:
        raise InputError(
            f"a Golay code for messages of {message_bits} bits", hint="ask for 2 to 4,096 blocks, or another router"
        )
    parity = GOLAY_BITS - GOLAY_MESSAGE
    columns = [1 << j for j in range(message_bits)] + parity * [0]
    for j in range(message_bits):
        rest = 1 << (parity + j)  # modulo the polynomial: what makes x^(11 + j) a codeword
        for power in range(parity + j, parity - 1, -1):
            if rest >> power & 1:
                rest ^= GOLAY << (power - parity)
        for i in range(parity):
            columns[message_bits + i] |= (rest >> i & 1) << j
    return np.array(columns, np.uint16)


def signs(generator: U16, message_bits: int) -> F32:
    """f32 (2^message_bits, n): 1 where a bit of the codeword is 0, -1 where it is 1."""
    words = np.array(codewords(generator.tolist(), message_bits), object)
    bits = np.array([[word >> i & 1 for i in range(len(generator))] for word in words], np.float32)
    out: F32 = 1 - 2 * bits
    return out
