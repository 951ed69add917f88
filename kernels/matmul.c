// Products of matrices, and the largest of each row of one: every element is one chain of fused multiply-adds over the
// depth in rising order, so its bits depend on nothing else. For builders.
#include "matmul.h"

#include "call.h"
#include "scan.h"
#include "select.h"

enum {
  DEPTH = 384,  // multiplied at a time
  STRIP = 96,   // rows at a time, which stay in the second cache
  ROWS_MOST = 8,
  VECTORS_MOST = 3,
  WIDTH = LANES * VECTORS_MOST,  // a multiple of every path's panel
  BLOCK_BYTES = 1 << 20,         // of packed columns at a time
};

// a b + c, rounded once. The product is exact in f64; the sum is rounded to odd, so that rounding it again, to f32, gives
// what one rounding would (Boldo and Melquiond, Emulation of a FMA and correctly rounded sums, 2008).
typedef f64 f64x4 __attribute__((vector_size(32)));
typedef i64 i64x4 __attribute__((vector_size(32)));
INLINE f32x4 fma_by_f64(f32x4 a, f32x4 b, f32x4 c) {
  f64x4 product = __builtin_convertvector(a, f64x4) * __builtin_convertvector(b, f64x4);
  f64x4 addend = __builtin_convertvector(c, f64x4), sum = product + addend, rest = sum - product;
  f64x4 error = (product - (sum - rest)) + (addend - rest);
  i64x4 outward = ~((error > 0) ^ (sum > 0)), even = ((i64x4)sum & 1) == 0, inexact = (error > 0) | (error < 0);
  i64x4 odd = (i64x4)sum + (inexact & even & (-1 - 2 * outward));
  return __builtin_convertvector((f64x4)odd, f32x4);
}

INLINE f32x16 fma_of(int fused, f32 a, f32x16 b, f32x16 c) {
  if (fused) return __builtin_elementwise_fma(all_f32x16(a), b, c);
  union {
    f32x16 all;
    f32x4 each[4];
  } by = {b}, sum = {c};
  for (int i = 0; i < 4; i++) sum.each[i] = fma_by_f64(splat(a), by.each[i], sum.each[i]);
  return sum.all;
}

// Rows f32[][stride] times a panel of columns f32[depth][16 vectors]: out[i][v] = (first ? 0 : out[i][v]) + the sum.
INLINE void multiply(int fused, int rows, int vectors, const f32_at *a, u64 stride, const f32 *panel, u64 depth,
                     f32_at *out, u64 width, int first) {
  f32x16 sums[ROWS_MOST][VECTORS_MOST], b[VECTORS_MOST];
#pragma clang loop unroll(full)
  for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++)
      sums[i][v] = first ? (f32x16){0} : load_f32x16(out + (u64)i * width + LANES * v);
#pragma clang loop unroll_count(2)
  for (u64 j = 0; j < depth; j++, panel += LANES * vectors) {
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) b[v] = *(const f32x16 *)(panel + LANES * v);
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
      for (int v = 0; v < vectors; v++) sums[i][v] = fma_of(fused, a[(u64)i * stride + j], b[v], sums[i][v]);
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) store_f32x16(out + (u64)i * width + LANES * v, sums[i][v]);
}

// The same for any number of rows, `most` at a time.
INLINE void multiply_rows(int fused, int most, int vectors, const f32_at *a, u64 rows, u64 stride, const f32 *panel,
                          u64 depth, f32_at *out, u64 width, int first) {
  u64 i = 0;
#define BY(count)                                                                                                 \
  for (; i + (count) <= rows; i += (count))                                                                       \
    multiply(fused, count, vectors, a + i * stride, stride, panel, depth, out + i * width, width, first);
  BY(most)
  if (most > 4) BY(4)
  if (most > 2) BY(2)
  BY(1)
#undef BY
}

// Rows f32[rows][depth], at most STRIP, times packed columns: out[i][j] f32, rows of it `width` apart.
typedef void Strip(const f32_at *a, u64 rows, u64 depth, const f32 *packed, u64 columns, f32_at *out, u64 width);
INLINE void strip(int fused, int most, int vectors, const f32_at *a, u64 rows, u64 depth, const f32 *packed,
                  u64 columns, f32_at *out, u64 width) {
  f32 edge[STRIP * WIDTH];  // of columns that fill a vector in part
  for (u64 at = 0; at < depth; at += DEPTH)
    for (u64 j = 0; j < columns; j += (u64)(LANES * vectors)) {
      u64 some = depth - at < DEPTH ? depth - at : DEPTH, left = columns - j, full = (u64)(LANES * vectors);
      int wide = left < full ? (int)((left + LANES - 1) / LANES) : vectors, part = left < (u64)(LANES * wide);
      const f32 *panel = packed + j * depth + at * (u64)(LANES * wide);
      f32_at *to = part ? edge : out + j;
      u64 apart = part ? WIDTH : width;
      if (part && at)
        for (u64 i = 0; i < rows; i++)
          for (u64 k = 0; k < left; k++) edge[i * WIDTH + k] = out[i * width + j + k];
      if (wide == vectors)
        multiply_rows(fused, most, vectors, a + at, rows, depth, panel, some, to, apart, !at);
      else if (wide == 2)
        multiply_rows(fused, most, vectors > 2 ? 2 : 1, a + at, rows, depth, panel, some, to, apart, !at);
      else
        multiply_rows(fused, most, 1, a + at, rows, depth, panel, some, to, apart, !at);
      if (part)
        for (u64 i = 0; i < rows; i++)
          for (u64 k = 0; k < left; k++) out[i * width + j + k] = edge[i * WIDTH + k];
    }
}

#define STRIP_OF const f32_at *a, u64 rows, u64 depth, const f32 *packed, u64 columns, f32_at *out, u64 width
#define GIVEN a, rows, depth, packed, columns, out, width
#if defined(WIDER_LANES)
static AVX2 void strip_avx2(STRIP_OF) { strip(1, 6, 1, GIVEN); }
static AVX512 void strip_avx512(STRIP_OF) { strip(1, 8, 3, GIVEN); }
#endif
#if defined(__aarch64__)
static void strip_plain(STRIP_OF) { strip(1, 6, 1, GIVEN); }
#else
static void strip_plain(STRIP_OF) { strip(0, 1, 1, GIVEN); }
#endif
static int panel_vectors(int path) { return path == 2 ? 3 : 1; }
static Strip *strip_by(int path) {
#if defined(WIDER_LANES)
  if (path == 2) return strip_avx512;
  if (path == 1) return strip_avx2;
#endif
  (void)path;
  return strip_plain;
}

INLINE void transpose(f32x4 v[4]) {
  f32x4 a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5), b = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
  f32x4 c = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7), d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
  v[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5), v[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  v[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5), v[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

// Rows f32[columns][depth] of B into panels of at most so many vectors, f32[depth][16 vectors], the last filled with 0.
static void pack(const f32_at *b, u64 columns, u64 depth, int vectors, f32 *packed) {
  for (u64 at = 0, wide; at < columns; at += wide, packed += wide * depth) {
    wide = (u64)(LANES * vectors);
    if (columns - at < wide) wide = (columns - at + LANES - 1) / LANES * LANES;
    for (u64 k = 0; k < wide; k += 4) {
      u64 j = 0, rows = columns - at < k ? 0 : columns - at - k;
      const f32_at *from = b + (at + k) * depth;
      if (rows >= 4)
        for (; j + 4 <= depth; j += 4) {
          f32x4 v[4];
          for (u64 i = 0; i < 4; i++) v[i] = load_f32x4(from + i * depth + j);
          transpose(v);
          for (u64 i = 0; i < 4; i++) store_f32x4(packed + (j + i) * wide + k, v[i]);
        }
      for (; j < depth; j++)
        for (u64 i = 0; i < 4; i++) packed[j * wide + k + i] = i < rows ? from[i * depth + j] : 0;
    }
  }
}

// Columns packed at a time, and where in the caller's scratch they and the products of a strip lie, a line apart.
enum { LINE = 64 };
static u64 block_of(u64 columns, u64 depth) {
  u64 most = BLOCK_BYTES / (4 * depth) / WIDTH * WIDTH, all = (columns + WIDTH - 1) / WIDTH * WIDTH;
  most = most < WIDTH ? WIDTH : most;
  return most < all ? most : all;
}
u64 scratch_of(u64 columns, u64 depth) { return LINE + 4 * block_of(columns, depth) * (depth + STRIP); }
static f32 *line_of(u8 *at) { return (f32 *)(((uintptr_t)at + LINE - 1) / LINE * LINE); }

void multiply_into(const Product *p, int path, f32_at *out) {
  u64 block = block_of(p->m, p->depth);
  f32 *packed = line_of(p->scratch);
  for (u64 j = 0; j < p->m; j += block) {
    u64 columns = p->m - j < block ? p->m - j : block;
    pack(p->b + j * p->depth, columns, p->depth, panel_vectors(path), packed);
    for (u64 i = 0; i < p->n; i += STRIP) {
      u64 rows = p->n - i < STRIP ? p->n - i : STRIP;
      strip_by(path)(p->a + i * p->depth, rows, p->depth, packed, columns, out + i * p->m + j, p->m);
    }
  }
}

static void select_nearest(const Product *p, int path, const f32_at *bias, u64 count, u32_at *at, f32_at *closeness) {
  u64 block = block_of(p->m, p->depth);
  f32 *packed = line_of(p->scratch), *products = packed + block * p->depth;
  Kept kept;
  kept_open(&kept, (u32)count);
  for (u64 j = 0; j < p->m; j += block) {
    u64 columns = p->m - j < block ? p->m - j : block;
    pack(p->b + j * p->depth, columns, p->depth, panel_vectors(path), packed);
    for (u64 i = 0; i < p->n; i += STRIP) {
      u64 rows = p->n - i < STRIP ? p->n - i : STRIP;
      strip_by(path)(p->a + i * p->depth, rows, p->depth, packed, columns, (f32_at *)products, block);
      for (u64 k = 0; k < rows; k++) {
        u64 first = (i + k) * count;
        if (j)
          kept_load(&kept, closeness + first, at + first);
        else
          kept_open(&kept, (u32)count);
        kept_offer(&kept, path, (f32_at *)products + k * block, bias + j, columns, j);
        kept_store(&kept, closeness + first, at + first);
      }
    }
  }
}

KERNEL(matmul_size) {
  OPEN(matmul_size, 2);
  u64 m = (u64)call_int(c, 0, "m", 0, (1ll << 31) - 1), depth = (u64)call_int(c, 1, "depth", 1, DEPTH_MAX);
  return call_close(c, call_ready(c) ? scratch_of(m, depth) : 0);
}

static Product take_product(Call *c, const char *of, const char *with, int sizes, int scratch) {
  Product p;
  p.n = (u64)call_int(c, sizes, "n", 0, (1ll << 31) - 1);
  p.m = (u64)call_int(c, sizes + 1, "m", 0, (1ll << 31) - 1);
  p.depth = (u64)call_int(c, sizes + 2, "depth", 1, DEPTH_MAX);
  p.a = (const f32_at *)call_in(c, 0, of, 4 * p.n * p.depth).at;
  p.b = (const f32_at *)call_in(c, 1, with, 4 * p.m * p.depth).at;
  p.scratch = call_out(c, scratch, "scratch", c->failed ? 0 : scratch_of(p.m, p.depth)).at;
  return p;
}

KERNEL(matmul) {
  OPEN(matmul, 7);
  Product p = take_product(c, "a", "b", 2, 6);
  int path = scan_path_now();  // no product changes its path half way
  f32_at *out = (f32_at *)call_out(c, 5, "out", 4 * p.n * p.m).at;
  if (call_ready(c)) WITHOUT_GIL(multiply_into(&p, path, out));
  return call_close(c, p.n);
}

KERNEL(nearest) {
  OPEN(nearest, 10);
  Product p = take_product(c, "x", "centres", 3, 9);
  u64 count = (u64)call_int(c, 6, "count", 1, p.m < KEPT_MAX ? (i64)p.m : KEPT_MAX);
  int path = scan_path_now();  // no product changes its path half way
  const f32_at *bias = (const f32_at *)call_in(c, 2, "bias", 4 * p.m).at;
  u32_at *at = (u32_at *)call_out(c, 7, "at", 4 * p.n * count).at;
  f32_at *closeness = (f32_at *)call_out(c, 8, "closeness", 4 * p.n * count).at;
  if (call_ready(c)) WITHOUT_GIL(select_nearest(&p, path, bias, count, at, closeness));
  return call_close(c, p.n);
}
