// Sixteen f32 lanes, for builders' kernels: one register of AVX-512, two of AVX2, four of other machines. A function with
// no target of its own that is inlined into one for AVX2 or AVX512 is compiled for that.
#pragma once
#include "simd.h"

enum { LANES = 16 };
typedef f32 f32x16 __attribute__((vector_size(64)));
typedef i32 i32x16 __attribute__((vector_size(64)));
typedef _Bool boolx16 __attribute__((ext_vector_type(16)));
typedef f32 f32x16_at __attribute__((vector_size(64), aligned(1), may_alias));

#if defined(__x86_64__) && !defined(KERN_BASELINE)
#define WIDER_LANES
#define AVX2 __attribute__((target("avx2,fma,tune=haswell")))
#define AVX512 __attribute__((target("avx512f")))
#endif

INLINE f32x16 load_f32x16(const void *p) { return *(const f32x16_at *)p; }
INLINE void store_f32x16(void *p, f32x16 v) { *(f32x16_at *)p = v; }
INLINE f32x16 all_f32x16(f32 x) { return (f32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

// Bit i: whether lane i of a comparison is true.
INLINE u32 bits_of(i32x16 mask) {
  union {
    boolx16 lanes;
    u16 bits;
  } of = {__builtin_convertvector(mask, boolx16)};
  return of.bits;
}
