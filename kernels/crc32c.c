// CRC-32C (Castagnoli, RFC 3720 appendix B.4; reflected polynomial 0x82F63B78): folding by shifted copies, then tables.
#include "call.h"
#include "simd.h"

// TABLE[k][b]: the CRC of byte b followed by k zero bytes. CRCs are linear, so an entry is the xor of those of its
// bits, which are powers of x: a row lists the entries of bits 0x01 to 0x80.
#define BIT(n, bit, power) ((n) & (bit) ? power : 0u)
#define E(n, p01, p02, p04, p08, p10, p20, p40, p80)                                                       \
  (BIT(n, 1, p01) ^ BIT(n, 2, p02) ^ BIT(n, 4, p04) ^ BIT(n, 8, p08) ^ BIT(n, 16, p10) ^ BIT(n, 32, p20) ^ \
   BIT(n, 64, p40) ^ BIT(n, 128, p80))
#define E4(n, ...) E(n, __VA_ARGS__), E(n + 1, __VA_ARGS__), E(n + 2, __VA_ARGS__), E(n + 3, __VA_ARGS__)
#define E16(n, ...) E4(n, __VA_ARGS__), E4(n + 4, __VA_ARGS__), E4(n + 8, __VA_ARGS__), E4(n + 12, __VA_ARGS__)
#define E64(n, ...) E16(n, __VA_ARGS__), E16(n + 16, __VA_ARGS__), E16(n + 32, __VA_ARGS__), E16(n + 48, __VA_ARGS__)
#define E256(...) {E64(0, __VA_ARGS__), E64(64, __VA_ARGS__), E64(128, __VA_ARGS__), E64(192, __VA_ARGS__)}
static const u32 TABLE[8][256] = {
    E256(0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, 0x105ec76f, 0x20bd8ede, 0x417b1dbc, 0x82f63b78),
    E256(0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, 0x3fc5f181, 0x7f8be302, 0xff17c604, 0xfbc3faf9),
    E256(0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, 0x70a27d8a, 0xe144fb14, 0xc76580d9, 0x8b277743),
    E256(0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, 0xe964b13d, 0xd725148b, 0xaba65fe7, 0x52a0c93f),
    E256(0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, 0x8f2261d3, 0x1ba8b557, 0x37516aae, 0x6ea2d55c),
    E256(0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, 0xc00c303e, 0x85f4168d, 0x0e045beb, 0x1c08b7d6),
    E256(0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, 0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a, 0xf56e0ef4),
    E256(0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, 0x847609b4, 0x0d006599, 0x1a00cb32, 0x34019664),
};
static u32 by_tables(u32 crc, const u8 *p, u64 size) {
  const u8 *end = p + size;
  for (; end - p >= 8; p += 8) {
    u64 x = *(const u64_at *)p ^ crc;
    crc = 0;
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++) crc ^= TABLE[7 - i][(u8)(x >> 8 * i)];
  }
  for (; p < end; p++) crc = TABLE[0][(u8)(crc ^ *p)] ^ crc >> 8;
  return crc;
}

// The polynomial divides x^(8*290) + x^(8*136) + x^(8*113) + x^(8*107) + x^(8*32) + 1: a byte may be struck out if it
// is added 154, 177, 183, 258 and 290 bytes further on. So folded[i] = data[i] ^ folded[i - 154] ^ ... strikes out
// everything but the last 290 bytes with five xors for 16 bytes, where tables do 8 bytes in about 12 cycles and Wasm
// has no CRC instruction. Found by search for six terms and the least top with no step below 128 (a shorter one would
// wait for the store that it reads).
enum { REACH = 290, WINDOW = 304, PIECE = 2048, FOLD_MIN = 1024 };
INLINE u8x16 folded_at(const u8 *data, const u8 *folded) {
  return load16(data) ^ load16(folded - 154) ^ load16(folded - 177) ^ load16(folded - 183) ^ load16(folded - 258) ^
         load16(folded - REACH);
}

// The same CRC as that of p[0..*size), started from crc, has the WINDOW bytes that it writes, started from 0, followed
// by what is left of p from the returned place on.
static const u8 *by_folding(u32 crc, const u8 *p, u64 *size, u8 window[WINDOW]) {
  u8 buffer[WINDOW + PIECE], *folded = buffer + WINDOW;
  for (u32 i = 0; i < WINDOW; i += 16) store16(buffer + i, (u8x16){0});
  u8x16 first = (u8x16)(u32x4){crc};  // a CRC begins by adding its start to the first four bytes
  while (*size >= WINDOW + 16) {
    u64 whole = (*size - WINDOW) & ~15ull;
    u32 piece = whole < PIECE ? (u32)whole : PIECE;
    store16(folded, folded_at(p, folded) ^ first);
    first = (u8x16){0};
    for (u32 i = 16; i < piece; i += 16) store16(folded + i, folded_at(p + i, folded + i));
    for (u32 i = 0; i < WINDOW; i += 16) store16(buffer + i, load16(buffer + piece + i));
    p += piece;
    *size -= piece;
  }
  for (u32 i = 0; i < WINDOW; i += 16) store16(folded + i, (u8x16){0});
  for (u32 i = 0; i < WINDOW; i += 16) store16(window + i, folded_at(p + i, folded + i));
  *size -= WINDOW;
  return p + WINDOW;
}

// crc32c(data, crc=0): the CRC of everything hashed so far, when crc is the result for what came before.
KERNEL(crc32c) {
  (void)module;
  Call call, *c = &call;
  call_open(c, "crc32c", argv, argc, 1, 2);
  u32 crc = argc == 2 ? ~(u32)call_int(c, 1, "crc", 0, UINT32_MAX) : ~0u;
  Span data = call_in(c, 0, "data", 0);
  if (call_ready(c)) {
    const u8 *p = data.at;
    u64 size = data.size;
    if (size >= FOLD_MIN) {
      u8 window[WINDOW];
      p = by_folding(crc, p, &size, window);
      crc = by_tables(0, window, WINDOW);
    }
    crc = by_tables(crc, p, size);
  }
  return call_close(c, ~crc);
}
