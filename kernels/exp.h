// e^x of four lanes, and how lanes are loaded from arrays of any length.
#pragma once
#include "simd.h"

// e^x for x <= 0, +-0 and -inf included: 0 below -87 (so no subnormal arises), else within 1 ulp. x = k ln2 + r, ln2 in
// two parts, degree 6 on |r| <= 0.35 (coefficients of Cephes expf), k added to the exponent. Each step is one f32
// operation.
INLINE f32x4 exp_lanes(f32x4 x) {
  i32x4 tiny = x < splat(-87.0f);
  f32x4 clamped = select(tiny, splat(-87.0f), x), shift = splat(0x1.8p23f);
  f32x4 k = (clamped * splat(1.44269504088896341f) + shift) - shift;  // nearest integer, ties to even
  f32x4 r = (clamped - k * splat(0.693359375f)) - k * splat(-2.12194440e-4f);
  f32x4 p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = ((p * (r * r)) + r) + splat(1.0f);
  i32x4 bits = (i32x4)p + (__builtin_convertvector(k, i32x4) << 23);
  return (f32x4)(bits & ~tiny);
}

// Four values at p, or the `count` that are left, the others 0.
INLINE f32x4 load_lanes(const f32_at *p, u64 count) {
  if (count >= 4) return load_f32x4(p);
  f32x4 v = splat(0);
  for (u64 k = 0; k < count; k++) v[k] = p[k];
  return v;
}
INLINE void store_lanes(f32_at *p, f32x4 v, u64 count) {
  if (count >= 4) store_f32x4(p, v);
  for (u64 k = 0; k < count && count < 4; k++) p[k] = v[k];
}
