// Distances of one query to many rows: Hamming on bits; inner product and squared L2 on f16, f32 and u8 rows,
// inner product on i8 rows.
// Floats: 16 lanes, lane i takes dims i, i+16, ... in order, then a fixed tree 16-8-4-2-1; so every machine rounds
// alike.
#include "call.h"
#include "simd.h"

enum { N_MAX = 0x7fffffff, DIM_MAX = 4096 };

// query u8[width], codes u8[n][width] -> out u32[n]
KERNEL(hamming) {
  OPEN(hamming, 5);
  u64 n = (u64)call_int(c, 2, "n", 0, N_MAX), width = (u64)call_int(c, 3, "width", 1, DIM_MAX);
  const u8 *query = call_in(c, 0, "query", width).at, *code = call_in(c, 1, "codes", n * width).at;
  u32_at *out = (u32_at *)call_out(c, 4, "out", n * 4).at;
  if (call_ready(c))
    for (u64 i = 0; i < n; i++, code += width) {
      u64 count = 0, j = 0;
      for (; j + 8 <= width; j += 8)
        count += (u64)__builtin_popcountll(*(const u64_at *)(query + j) ^ *(const u64_at *)(code + j));
      for (; j < width; j++) count += (u64)__builtin_popcount(query[j] ^ code[j]);
      out[i] = (u32)count;
    }
  return call_close(c, n);
}

typedef enum { F16, F32, U8, I8 } Kind;
INLINE u32 size_of(Kind kind) { return kind == F32 ? 4 : kind == F16 ? 2 : 1; }

// Four f16 in the low halves of the lanes -> f32, exact. Zeros and subnormals by a subtraction (a subnormal f32 product
// would cost a microcode trap of some 150 cycles on x86), infinities and NaNs by a second step of the exponent.
INLINE f32x4 f16_any(u32x4 h) {
  u32x4 magnitude = (h & 0x7fff) << 13, normal = magnitude + (112u << 23);
  normal += (u32x4)(magnitude >= 0x7c00u << 13) & (112u << 23);
  f32x4 subnormal = (f32x4)(magnitude + (113u << 23)) - splat(0x1p-14f);
  f32x4 value = select((i32x4)(magnitude < 0x400u << 13), subnormal, (f32x4)normal);
  return (f32x4)((u32x4)value | (h & 0x8000) << 16);
}

typedef u16 u16x4 __attribute__((vector_size(8), aligned(1), may_alias));
typedef int16_t i16x4 __attribute__((vector_size(8), aligned(1), may_alias));
// 16 f16 at p -> x[0..4). Nearly always all are normal numbers, which need only their exponents moved.
INLINE void load_f16(const u8 *p, f32x4 x[4]) {
  u16x8 a = (u16x8)load16(p), b = (u16x8)load16(p + 16);
  // Twice the magnitude plus 0x800 is below 0x1000 for exponents 0 and 31, the latter by wrapping.
  u16x8 odd = (u16x8)((a + a + 0x800 < 0x1000) | (b + b + 0x800 < 0x1000));
  if (__builtin_expect(any_lane((i32x4)odd), 0)) {
    for (int k = 0; k < 4; k++) x[k] = f16_any(__builtin_convertvector(*(const u16x4 *)(p + 8 * k), u32x4));
    return;
  }
  for (int k = 0; k < 4; k++) {
    i32x4 h = __builtin_convertvector(*(const i16x4 *)(p + 8 * k), i32x4);
    x[k] = (f32x4)((u32x4)(h << 13 & (i32)0x8fffe000) + (112u << 23));
  }
}

// 16 values at p -> x[0..4), lanes in order
INLINE void load_values(Kind kind, const u8 *p, f32x4 x[4]) {
  typedef u8 u8x4 __attribute__((vector_size(4), aligned(1), may_alias));
  typedef signed char i8x4 __attribute__((vector_size(4), aligned(1), may_alias));
  if (kind == F16) load_f16(p, x);
  for (int k = 0; k < 4 && kind != F16; k++)
    x[k] = kind == F32  ? load_f32x4(p + 16 * k)
           : kind == U8 ? to_f32(__builtin_convertvector(*(const u8x4 *)(p + 4 * k), i32x4))
                        : to_f32(__builtin_convertvector(*(const i8x4 *)(p + 4 * k), i32x4));
}

// Adds 16 dims of `count` rows, `stride` bytes apart, to their lanes.
INLINE void add_dims(Kind kind, int l2, int count, const u8 *query, const u8 *row, u64 stride, f32x4 sum[][4]) {
  f32x4 q[4], x[4];
  load_values(F32, query, q);
  for (int r = 0; r < count; r++) {
    load_values(kind, row + (u64)r * stride, x);
    for (int k = 0; k < 4; k++) {
      f32x4 d = q[k] - x[k];
      sum[r][k] += l2 ? d * d : q[k] * x[k];
    }
  }
}

// The distances of `count` rows; several at a time hide the latency of the additions.
INLINE void rows_at_once(Kind kind, int l2, int count, const u8 *query, const u8 *row, u64 stride, u32 dim,
                         f32_at *out) {
  f32x4 sum[4][4];
  u32 size = size_of(kind), whole = dim & ~15u, rest = dim & 15;
  for (int r = 0; r < count; r++)
    for (int k = 0; k < 4; k++) sum[r][k] = splat(0);
  for (u32 i = 0; i < whole; i += 16) add_dims(kind, l2, count, query + i * 4, row + i * size, stride, sum);
  if (rest) {
    // Zeros beyond the end: +0 added to a lane that began at +0 changes no bit.
    f32 query_rest[16];
    u32 row_rest[16];
    for (u32 i = 0; i < 16; i++) query_rest[i] = i < rest ? ((const f32_at *)query)[whole + i] : 0;
    for (int r = 0; r < count; r++) {
      const u8 *from = row + (u64)r * stride + whole * size;
      for (u32 i = 0; i < 16 * size; i++) ((u8 *)row_rest)[i] = i < rest * size ? from[i] : 0;
      add_dims(kind, l2, 1, (const u8 *)query_rest, (const u8 *)row_rest, 0, sum + r);
    }
  }
  for (int r = 0; r < count; r++) {
    f32x4 s = (sum[r][0] + sum[r][2]) + (sum[r][1] + sum[r][3]);
    out[r] = (s[0] + s[2]) + (s[1] + s[3]);
  }
}

// query f32[dim], rows n of dim values `stride` bytes apart from byte `offset` on -> out f32[n]
INLINE PyObject *distances(const char *name, Kind kind, int l2, PyObject *const *argv, Py_ssize_t argc) {
  Call call, *c = &call;
  call_open(c, name, argv, argc, 7, 7);
  u64 n = (u64)call_int(c, 4, "n", 0, N_MAX), dim = (u64)call_int(c, 5, "dim", 1, DIM_MAX), size = dim * size_of(kind);
  u64 offset = (u64)call_int(c, 2, "offset", 0, (i64)1 << 48);
  u64 stride = (u64)call_int(c, 3, "stride", (i64)size, N_MAX);
  const u8 *query = call_in(c, 0, "query", dim * 4).at;
  const u8 *row = call_in(c, 1, "rows", n ? offset + (n - 1) * stride + size : 0).at;
  f32_at *out = (f32_at *)call_out(c, 6, "out", n * 4).at;
  if (call_ready(c)) {
    u64 i = 0;
    row = n ? row + offset : row;
    for (; i + 4 <= n; i += 4, row += 4 * stride) rows_at_once(kind, l2, 4, query, row, stride, (u32)dim, out + i);
    for (; i < n; i++, row += stride) rows_at_once(kind, l2, 1, query, row, stride, (u32)dim, out + i);
  }
  return call_close(c, n);
}
#define DISTANCES(name, kind, l2) \
  KERNEL(name) { return (void)module, distances(#name, kind, l2, argv, argc); }
DISTANCES(dot_f16, F16, 0)
DISTANCES(dot_f32, F32, 0)
DISTANCES(dot_u8, U8, 0)
DISTANCES(dot_i8, I8, 0)
DISTANCES(l2_f16, F16, 1)
DISTANCES(l2_f32, F32, 1)
DISTANCES(l2_u8, U8, 1)
