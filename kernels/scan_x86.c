// The paths of the scan for x86-64 processors with AVX2 or AVX-512.
#include "scan.h"
#if defined(__x86_64__) && !defined(KERN_BASELINE)
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vbmi,avx512vnni")))
#define INLINE_AVX2 static inline AVX2 __attribute__((always_inline))
#define INLINE_AVX512 static inline AVX512 __attribute__((always_inline))
typedef u8 u8x32 __attribute__((vector_size(32)));
typedef u16 u16x16 __attribute__((vector_size(32)));

// The tables of nibble `half` of two code bytes.
INLINE_AVX2 __m256i tables_of_two(const u8 *table, int half) {
  table += 16 * half;
  return _mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)load16(table)), (__m128i)load16(table + 32), 1);
}

INLINE_AVX2 u16x8 halves(u16x16 v) {
  return (u16x8)_mm256_castsi256_si128((__m256i)v) + (u16x8)_mm256_extracti128_si256((__m256i)v, 1);
}

// Sums of a group: lanes 0 to 3 of by[k] are vector k of Group, lanes 4 to 7 are vector k + 2.
typedef struct {
  __m256i by[2];
} Sums;

// v shifted down by `at` bits in the lower half, by 16 more in the upper.
INLINE_AVX2 __m256i parted(__m128i v, int at) {
  int more = at + 16;
  return _mm256_srlv_epi32(_mm256_broadcastsi128_si256(v), _mm256_setr_epi32(at, at, at, at, more, more, more, more));
}

// As flush of scan.h.
INLINE_AVX2 void flush_avx2(u16x8 raw, u16x8 odd, u32 shift, Sums *sums) {
  const __m256i word = _mm256_set1_epi32(0xffff);
  __m256i even = _mm256_and_si256(parted((__m128i)(raw - (odd << 8)), 0), word);
  __m256i other = _mm256_and_si256(parted((__m128i)odd, 0), word);
  sums->by[0] = _mm256_add_epi32(sums->by[0], _mm256_sll_epi32(even, _mm_cvtsi32_si128((int)shift)));
  sums->by[1] = _mm256_add_epi32(sums->by[1], _mm256_sll_epi32(other, _mm_cvtsi32_si128((int)shift)));
}

// As score_group of scan.h, and whether a value is not below `limit`.
INLINE_AVX2 u32 score_avx2(const Scan *s, const u8 *f, const u8 *h, const Sums *sums, f32 limit, f32x4 values[4]) {
  const __m256i byte = _mm256_set1_epi32(255);
  __m256 low = _mm256_set1_ps(limit), over = _mm256_setzero_ps();
  for (int k = 0; k < 2; k++) {
    __m256 f8 = _mm256_cvtepi32_ps(_mm256_and_si256(parted((__m128i)load16(f), 8 * k), byte));
    __m256 h8 = _mm256_cvtepi32_ps(_mm256_and_si256(parted((__m128i)load16(h), 8 * k), byte));
    __m256 factor = s->f_lo + s->f_step * f8, addend = s->h_lo + s->h_step * h8;
    __m256 dot = _mm256_cvtepi32_ps(sums->by[k]) * s->unit + s->bias;
    __m256 v = (s->base + (addend + factor * dot)) * s->scale;
    over = _mm256_or_ps(over, _mm256_cmp_ps(v, low, _CMP_NLT_UQ));
    values[k] = (f32x4)_mm256_castps256_ps128(v);
    values[k + 2] = (f32x4)_mm256_extractf128_ps(v, 1);
  }
  return _mm256_movemask_ps(over) != 0;
}

// A segment as in scan.c, two code bytes at once: byte j in the lower half of a vector, byte j + 1 in the upper.
INLINE_AVX2 void segment_avx2(int passes, int count, const u8 *codes, u64 stride, const u8 *table, u32 length,
                              const u8 *shifts, Sums *sums) {
  u16x16 raw[2][AT_ONCE] = {0}, odd[2][AT_ONCE] = {0};
  u32 j = 0;
  for (; j + 2 <= length; j += 2, table += 64) {
    __m256i low[2], high[2];
    for (int p = 0; p < passes; p++) {
      low[p] = tables_of_two(table + PASS_BYTES * p, 0);
      high[p] = tables_of_two(table + PASS_BYTES * p, 1);
    }
    for (int g = 0; g < count; g++) {
      const u8 *at = codes + (u64)g * stride + GROUP * j;
      // The next groups' line: four short streams are more than the processor foresees.
      if (!(j & 2)) __builtin_prefetch(at + AT_ONCE * stride);
      u8x32 code = (u8x32)_mm256_loadu_si256((const __m256i_u *)at);
      __m256i lows = (__m256i)(code & 15), highs = (__m256i)(code >> 4);
      for (int p = 0; p < passes; p++) {
        u16x16 a = (u16x16)_mm256_shuffle_epi8(low[p], lows), b = (u16x16)_mm256_shuffle_epi8(high[p], highs);
        raw[p][g] += a + b;
        odd[p][g] += (a >> 8) + (b >> 8);
      }
    }
  }
  for (int g = 0; g < count; g++) {
    u8x16 code = j < length ? load16(codes + (u64)g * stride + GROUP * j) : (u8x16){0};
    for (int p = 0; p < passes; p++) {
      u16x8 raw16 = halves(raw[p][g]), odd16 = halves(odd[p][g]);
      if (j < length) {
        u16x8 a = (u16x8)swizzle(load16(table + PASS_BYTES * p), code & 15);
        u16x8 b = (u16x8)swizzle(load16(table + PASS_BYTES * p + 16), high_nibbles(code));
        raw16 += a + b;
        odd16 += (a >> 8) + (b >> 8);
      }
      flush_avx2(raw16, odd16, shifts[p], sums + g);
    }
  }
}

INLINE_AVX2 u32 groups_avx2(int count, const Scan *s, u32 at, f32 limit, f32x4 values[AT_ONCE][4]) {
  const Tables *tables = s->tables;
  u32 code_bytes = s->code_bytes, reached = 0;
  u64 stride = (u64)code_bytes * GROUP;
  const u8 *codes = s->codes + (u64)at * code_bytes;
  Sums sums[AT_ONCE];
  for (int g = 0; g < count; g++) sums[g].by[0] = sums[g].by[1] = _mm256_setzero_si256();
  for (u32 segment = 0, pass = 0, j = 0; j < code_bytes; segment++, pass++, j += SEGMENT) {
    u32 length = code_bytes - j < SEGMENT ? code_bytes - j : SEGMENT;
    const u8 *table = tables->bytes + PASS_BYTES * pass, *shifts = tables->shifts + pass;
    if (segment < tables->fine) {
      // Both passes' sums of four groups would not fit the registers.
      for (int g = 0; g < count; g += 2)
        segment_avx2(2, count < 2 ? 1 : 2, codes + GROUP * j + (u64)g * stride, stride, table, length, shifts, sums + g);
      pass++;
    } else {
      segment_avx2(1, count, codes + GROUP * j, stride, table, length, shifts, sums);
    }
  }
  for (int g = 0; g < count; g++)
    reached |= score_avx2(s, s->f + at + GROUP * g, s->h + at + GROUP * g, sums + g, limit, values[g]) << g;
  return reached;
}

AVX2 u32 values_avx2(const Scan *s, u32 at, int count, f32 limit, f32x4 values[AT_ONCE][4]) {
  if (count == AT_ONCE) return groups_avx2(AT_ONCE, s, at, limit, values);
  u32 reached = 0;
  for (int g = 0; g < count; g++) reached |= groups_avx2(1, s, at + GROUP * (u32)g, limit, values + g) << g;
  return reached;
}

// Byte 4 r + k: code byte k of row r, of four code bytes of 16 rows. So a row's bytes are one lane of 32 bits, whose
// entries one instruction adds to its sum.
#define ROW(r) r, r + 16, r + 32, r + 48
#define ROWS(r) ROW(r), ROW(r + 1), ROW(r + 2), ROW(r + 3)
static const u8 BY_ROWS[64] = {ROWS(0), ROWS(4), ROWS(8), ROWS(12)};
// Row 4 r + k to lane 4 k + r, as Group has it.
static const u32 TO_GROUP[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};

// Adds up four code bytes of each group. A table register has the 16 entries of each of the four; bits 4 and 5 of an
// index say which.
INLINE_AVX512 void four_avx512(int passes, int count, const u8 *codes, u64 stride, const u8 *table, u32 rest,
                               __m512i parts[2][AT_ONCE]) {
  __m512i by_rows = _mm512_loadu_si512(BY_ROWS), nibble = _mm512_set1_epi8(15), ones = _mm512_set1_epi8(1);
  __m512i which = _mm512_set1_epi32(0x30201000), low[2], high[2];
  __mmask16 whole = (__mmask16)(rest < 4 ? (1u << 4 * rest) - 1 : 0xffff);
  __mmask16 first = (__mmask16)(rest < 2 ? 0xff : 0xffff), second = (__mmask16)(rest < 3 ? 0 : rest < 4 ? 0xff : 0xffff);
  for (int p = 0; p < passes; p++) {
    __m512i x = _mm512_maskz_loadu_epi32(first, table + PASS_BYTES * p);
    __m512i y = _mm512_maskz_loadu_epi32(second, table + PASS_BYTES * p + 64);
    low[p] = _mm512_shuffle_i64x2(x, y, 0x88);
    high[p] = _mm512_shuffle_i64x2(x, y, 0xdd);
  }
  for (int g = 0; g < count; g++) {
    __m512i code = _mm512_maskz_loadu_epi32(whole, codes + (u64)g * stride);
    code = _mm512_permutexvar_epi8(by_rows, code);
    // 0xea: a & b | c
    __m512i lows = _mm512_ternarylogic_epi32(code, nibble, which, 0xea);
    __m512i highs = _mm512_ternarylogic_epi32(_mm512_srli_epi16(code, 4), nibble, which, 0xea);
    for (int p = 0; p < passes; p++) {
      parts[p][g] = _mm512_dpbusd_epi32(parts[p][g], _mm512_permutexvar_epi8(lows, low[p]), ones);
      parts[p][g] = _mm512_dpbusd_epi32(parts[p][g], _mm512_permutexvar_epi8(highs, high[p]), ones);
    }
  }
}

INLINE_AVX512 void segment_avx512(int passes, int count, const u8 *codes, u64 stride, const u8 *table, u32 length,
                                  const u8 *shifts, __m512i sums[AT_ONCE]) {
  __m512i parts[2][AT_ONCE];
  for (int p = 0; p < passes; p++)
    for (int g = 0; g < count; g++) parts[p][g] = _mm512_setzero_si512();
  u32 j = 0;
  for (; j + 4 <= length; j += 4, table += 128)
    four_avx512(passes, count, codes + GROUP * j, stride, table, 4, parts);
  if (j < length) four_avx512(passes, count, codes + GROUP * j, stride, table, length - j, parts);
  for (int p = 0; p < passes; p++)
    for (int g = 0; g < count; g++)
      sums[g] = _mm512_add_epi32(sums[g], _mm512_sll_epi32(parts[p][g], _mm_cvtsi32_si128(shifts[p])));
}

// score_group of 16 rows at once.
INLINE_AVX512 __m512 score_avx512(const Scan *s, const u8 *f, const u8 *h, __m512i sums) {
  __m512 f16 = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)load16(f)));
  __m512 h16 = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)load16(h)));
  __m512 factor = s->f_lo + s->f_step * f16, addend = s->h_lo + s->h_step * h16;
  __m512 dot = _mm512_cvtepi32_ps(sums) * s->unit + s->bias;
  return (s->base + (addend + factor * dot)) * s->scale;
}

INLINE_AVX512 u32 groups_avx512(int count, const Scan *s, u32 at, f32 limit, f32x4 values[AT_ONCE][4]) {
  const Tables *tables = s->tables;
  u32 code_bytes = s->code_bytes, reached = 0;
  u64 stride = (u64)code_bytes * GROUP;
  const u8 *codes = s->codes + (u64)at * code_bytes;
  __m512i sums[AT_ONCE];
  for (int g = 0; g < count; g++) sums[g] = _mm512_setzero_si512();
  for (u32 segment = 0, pass = 0, j = 0; j < code_bytes; segment++, pass++, j += SEGMENT) {
    u32 length = code_bytes - j < SEGMENT ? code_bytes - j : SEGMENT;
    const u8 *table = tables->bytes + PASS_BYTES * pass, *shifts = tables->shifts + pass;
    if (segment < tables->fine) {
      segment_avx512(2, count, codes + GROUP * j, stride, table, length, shifts, sums);
      pass++;
    } else {
      segment_avx512(1, count, codes + GROUP * j, stride, table, length, shifts, sums);
    }
  }
  for (int g = 0; g < count; g++) {
    __m512 v = score_avx512(s, s->f + at + GROUP * g, s->h + at + GROUP * g, sums[g]);
    reached |= (u32)(_mm512_cmp_ps_mask(v, _mm512_set1_ps(limit), _CMP_NLT_UQ) != 0) << g;
    _mm512_storeu_ps(values[g], _mm512_permutexvar_ps(_mm512_loadu_si512(TO_GROUP), v));
  }
  return reached;
}

AVX512 u32 values_avx512(const Scan *s, u32 at, int count, f32 limit, f32x4 values[AT_ONCE][4]) {
  if (count == AT_ONCE) return groups_avx512(AT_ONCE, s, at, limit, values);
  u32 reached = 0;
  for (int g = 0; g < count; g++) reached |= groups_avx512(1, s, at + GROUP * (u32)g, limit, values + g) << g;
  return reached;
}

typedef struct {
  u32 a, b, c, d;
} Answer;
static Answer cpuid(u32 leaf) {
  Answer r = {leaf, 0, 0, 0};
  __asm__("cpuid" : "+a"(r.a), "=b"(r.b), "+c"(r.c), "=d"(r.d));
  return r;
}

// A path counts when the processor has its instructions and the system saves their registers. Asked once: cpuid traps
// in virtual machines.
int scan_best(void) {
  static int best = -1;
  if (best >= 0) return best;
  best = 0;
  if (cpuid(0).a < 7 || (cpuid(1).c >> 27 & 3) != 3) return best;  // OSXSAVE, AVX
  u32 saved, upper;
  __asm__("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
  Answer has = cpuid(7);
  int avx2 = (saved & 6) == 6 && (has.b >> 5 & 1) && (cpuid(1).c >> 12 & 1);  // and fused multiply-adds
  // F, BW of leaf 7's b; VBMI, VNNI of its c; opmask and both parts of the upper registers saved
  int avx512 = (saved & 0xe6) == 0xe6 && (has.b >> 16 & 1) && (has.b >> 30 & 1) && (has.c >> 1 & 1) && (has.c >> 11 & 1);
  best = avx2 ? 1 + avx512 : 0;
  return best;
}
#endif
