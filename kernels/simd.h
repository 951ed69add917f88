// 16-byte vectors for Wasm, x86-64 (SSSE3, SSE4.1) and AArch64: clang's vector types do nearly all; only table lookup,
// pair products and "any lane" differ between machines. Every operation gives the same bits everywhere.
#pragma once
#include "abi.h"
#if defined(__wasm_simd128__)
#include <wasm_simd128.h>
#elif defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#else
#error "no SIMD mapping for this machine: add swizzle, pair_products and any_lane to simd.h"
#endif

#define INLINE static inline __attribute__((always_inline))
#define VECTOR(name, type) typedef type name __attribute__((vector_size(16)))
VECTOR(u8x16, u8);
VECTOR(i8x16, signed char);
VECTOR(u16x8, u16);
VECTOR(i16x8, int16_t);
VECTOR(u32x4, u32);
VECTOR(i32x4, i32);
VECTOR(f32x4, f32);

// Buffers come from Python with any alignment: all memory is read and written through these.
#define UNALIGNED(name, type) typedef type name __attribute__((aligned(1), may_alias))
UNALIGNED(u16_at, u16);
UNALIGNED(i16_at, int16_t);
UNALIGNED(u32_at, u32);
UNALIGNED(i32_at, i32);
UNALIGNED(u64_at, u64);
UNALIGNED(i64_at, i64);
UNALIGNED(f32_at, f32);
UNALIGNED(u8x16_at, u8x16);
UNALIGNED(f32x4_at, f32x4);

INLINE u8x16 load16(const void *p) { return *(const u8x16_at *)p; }
INLINE void store16(void *p, u8x16 v) { *(u8x16_at *)p = v; }
INLINE f32x4 load_f32x4(const void *p) { return *(const f32x4_at *)p; }
INLINE void store_f32x4(void *p, f32x4 v) { *(f32x4_at *)p = v; }
INLINE f32x4 splat(f32 x) { return (f32x4){x, x, x, x}; }
INLINE f32x4 select(i32x4 mask, f32x4 yes, f32x4 no) { return (f32x4)((mask & (i32x4)yes) | (~mask & (i32x4)no)); }
INLINE f32x4 to_f32(i32x4 v) { return __builtin_convertvector(v, f32x4); }

// table[index] in every lane; the lanes of index must be 0 to 15.
INLINE u8x16 swizzle(u8x16 table, u8x16 index) {
#if defined(__wasm_relaxed_simd__)
  return (u8x16)wasm_i8x16_relaxed_swizzle((v128_t)table, (v128_t)index);
#elif defined(__wasm_simd128__)
  return (u8x16)wasm_i8x16_swizzle((v128_t)table, (v128_t)index);
#elif defined(__x86_64__)
  return (u8x16)_mm_shuffle_epi8((__m128i)table, (__m128i)index);
#else
  return (u8x16)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)index);
#endif
}

// Lane i: a[2i] b[2i] + a[2i+1] b[2i+1], wrapping.
INLINE u32x4 pair_products(i16x8 a, i16x8 b) {
#if defined(__wasm_simd128__)
  return (u32x4)wasm_i32x4_dot_i16x8((v128_t)a, (v128_t)b);
#elif defined(__x86_64__)
  return (u32x4)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)a), vget_low_s16((int16x8_t)b));
  return (u32x4)vpaddq_s32(low, vmull_high_s16((int16x8_t)a, (int16x8_t)b));
#endif
}

// Is any lane of a comparison true?
INLINE int any_lane(i32x4 mask) {
#if defined(__wasm_simd128__)
  return wasm_v128_any_true((v128_t)mask);
#elif defined(__x86_64__)
  return _mm_movemask_epi8((__m128i)mask) != 0;
#else
  return vmaxvq_u32((uint32x4_t)mask) != 0;
#endif
}
