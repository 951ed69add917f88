// A product of matrices, and what it takes.
#pragma once
#include "simd.h"

enum { DEPTH_MAX = 1 << 16 };

// Rows a f32[n][depth] and b f32[m][depth]; scratch u8[scratch_of(m, depth)].
typedef struct {
  const f32_at *a, *b;
  u64 n, m, depth;
  u8 *scratch;
} Product;

u64 scratch_of(u64 m, u64 depth);
void multiply_into(const Product *, int path, f32_at *out);  // out f32[n][m]
