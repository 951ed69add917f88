// Exact integer products of one i16 query with many i8 or i4 rows: the router's centres and layers.
#include "call.h"
#include "simd.h"

enum { N_MAX = 0x7fffffff, DIM_MAX = 4096, AT_ONCE = 4 };

INLINE u32 total(u32x4 v) { return v[0] + v[1] + v[2] + v[3]; }

INLINE void rows_i8(int count, const i16x8 *query, const u8 *row, u64 stride, u32_at *out) {
  typedef signed char i8x8 __attribute__((vector_size(8), aligned(1), may_alias));
  u32x4 sum[AT_ONCE];
  for (int r = 0; r < count; r++) sum[r] = (u32x4){0};
  for (u64 j = 0; j < stride; j += 8)
    for (int r = 0; r < count; r++) {
      i16x8 x = __builtin_convertvector(*(const i8x8 *)(row + (u64)r * stride + j), i16x8);
      sum[r] += pair_products(query[j / 8], x);
    }
  for (int r = 0; r < count; r++) out[r] = total(sum[r]);
}

// query i16[dim up to 16s], rows i8[n][dim up to 16s] -> out i32[n], mod 2^32
KERNEL(matvec_i8) {
  OPEN(matvec_i8, 5);
  u64 n = (u64)call_int(c, 2, "n", 0, N_MAX), dim = (u64)call_int(c, 3, "dim", 1, DIM_MAX),
      stride = (dim + 15) & ~15ull;
  const u8 *query = call_in(c, 0, "query", stride * 2).at, *row = call_in(c, 1, "rows", n * stride).at;
  u32_at *out = (u32_at *)call_out(c, 4, "out", n * 4).at;
  if (call_ready(c)) {
    i16x8 aligned[DIM_MAX / 8];
    for (u64 j = 0; j < stride / 8; j++) aligned[j] = (i16x8)load16(query + 16 * j);
    u64 i = 0;
    for (; i + AT_ONCE <= n; i += AT_ONCE, row += AT_ONCE * stride) rows_i8(AT_ONCE, aligned, row, stride, out + i);
    for (; i < n; i++, row += stride) rows_i8(1, aligned, row, stride, out + i);
  }
  return call_close(c, n);
}

// A u16 lane k holds bytes 2k and 2k+1, so its four nibbles are dims 2k, 16+2k, 2k+1 and 17+2k of the group: the query
// is laid out in that order once, and 8 times its sum taken off at the end makes nibbles signed.
INLINE void rows_i4(int count, const i16x8 (*query)[4], u32 bias, const u8 *row, u64 stride, u32_at *out) {
  u32x4 sum[AT_ONCE];
  for (int r = 0; r < count; r++) sum[r] = (u32x4){0};
  for (u64 g = 0; g < stride / 16; g++)
    for (int r = 0; r < count; r++) {
      u16x8 x = (u16x8)load16(row + (u64)r * stride + 16 * g);
      sum[r] += pair_products(query[g][0], (i16x8)(x & 15)) + pair_products(query[g][1], (i16x8)(x >> 4 & 15));
      sum[r] += pair_products(query[g][2], (i16x8)(x >> 8 & 15)) + pair_products(query[g][3], (i16x8)(x >> 12));
    }
  for (int r = 0; r < count; r++) out[r] = total(sum[r]) - bias;
}

// query i16[dim up to 32s], rows u8[n][ceil(dim/32)*16] -> out i32[n], mod 2^32
KERNEL(matvec_i4) {
  OPEN(matvec_i4, 5);
  u64 n = (u64)call_int(c, 2, "n", 0, N_MAX), dim = (u64)call_int(c, 3, "dim", 1, DIM_MAX), groups = (dim + 31) / 32;
  u64 stride = groups * 16;
  const u8 *query = call_in(c, 0, "query", groups * 64).at, *row = call_in(c, 1, "rows", n * stride).at;
  u32_at *out = (u32_at *)call_out(c, 4, "out", n * 4).at;
  if (call_ready(c)) {
    i16x8 ordered[DIM_MAX / 32][4];
    u32 bias = 0;
    for (u64 g = 0; g < groups; g++)
      for (int k = 0; k < 32; k++) {
        int16_t q = ((const i16_at *)query)[32 * g + (u64)k];
        ordered[g][k % 2 * 2 + k / 16][k % 16 / 2] = q;
        bias += 8 * (u32)(i32)q;
      }
    u64 i = 0;
    for (; i + AT_ONCE <= n; i += AT_ONCE, row += AT_ONCE * stride)
      rows_i4(AT_ONCE, ordered, bias, row, stride, out + i);
    for (; i < n; i++, row += stride) rows_i4(1, ordered, bias, row, stride, out + i);
  }
  return call_close(c, n);
}
