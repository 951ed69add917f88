// Finds levels near to numbers, and sums of table rows near to vectors by beam search, for encoding. For builders.
#include "call.h"
#include "scan.h"

enum { WORDS = 16, BEAM = 16, PARTS_MAX = 4, WIDTH_MAX = 4096, CUTS_MAX = 255, AT_A_TIME = 64 };
static const f32 VALUE_MAX = 0x1p40f;

typedef struct {
  int parts, width;
  const f32_at *words;  // [parts][16][width]
  f32 half[PARTS_MAX][WORDS];
  f32 overlaps[PARTS_MAX][PARTS_MAX][WORDS][WORDS];  // i, j, row of part j, row of part i, for i < j
} Words;

#define NETWORK(X) \
  X(0, 1) X(2, 3) X(4, 5) X(6, 7) X(8, 9) X(10, 11) X(12, 13) X(14, 15) X(0, 2) X(1, 3) X(4, 6) X(5, 7) \
  X(8, 10) X(9, 11) X(12, 14) X(13, 15) X(1, 2) X(5, 6) X(9, 10) X(13, 14) X(0, 4) X(1, 5) X(2, 6) X(3, 7) \
  X(8, 12) X(9, 13) X(10, 14) X(11, 15) X(2, 4) X(3, 5) X(10, 12) X(11, 13) X(1, 2) X(3, 4) X(5, 6) X(9, 10) \
  X(11, 12) X(13, 14) X(0, 8) X(1, 9) X(2, 10) X(3, 11) X(4, 12) X(5, 13) X(6, 14) X(7, 15) X(4, 8) X(5, 9) \
  X(6, 10) X(7, 11) X(2, 4) X(3, 5) X(6, 8) X(7, 9) X(10, 12) X(11, 13) X(1, 2) X(3, 4) X(5, 6) X(7, 8) \
  X(9, 10) X(11, 12) X(13, 14)

#if defined(__x86_64__) && !defined(KERN_BASELINE)
typedef f32 f32x8 __attribute__((vector_size(32)));
typedef i32 i32x8 __attribute__((vector_size(32)));
typedef f32 f32x8_at __attribute__((vector_size(32), aligned(1), may_alias));
typedef f32 f32x16 __attribute__((vector_size(64)));
typedef i32 i32x16 __attribute__((vector_size(64)));
typedef f32 f32x16_at __attribute__((vector_size(64), aligned(1), may_alias));

#define LANES 16
#define PATH(name) name##_avx512
#define TARGET __attribute__((target("avx512f")))
#define F f32x16
#define I i32x16
#define FROM f32x16_at
#define MAX(a, b) ((f32x16)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define MIN(a, b) ((f32x16)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define LOOKUP(table, index) ((f32x16)_mm512_permutexvar_ps((__m512i)(index), _mm512_loadu_ps(table)))
#include "additive.h"

static inline __attribute__((target("avx2"), always_inline)) f32x8 lookup_avx2(const f32 *table, i32x8 index) {
  __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)index);
  __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)index);
  return (f32x8)_mm256_blendv_ps(low, high, (__m256)(index << 28));
}
#define LANES 8
#define PATH(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#define F f32x8
#define I i32x8
#define FROM f32x8_at
#define MAX(a, b) ((f32x8)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define MIN(a, b) ((f32x8)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define LOOKUP lookup_avx2
#include "additive.h"
#endif

INLINE f32x4 lookup_plain(const f32 *table, i32x4 index) {
  return (f32x4){table[index[0] & 15], table[index[1] & 15], table[index[2] & 15], table[index[3] & 15]};
}
#define LANES 4
#define PATH(name) name##_plain
#define TARGET
#define F f32x4
#define I i32x4
#define FROM f32x4_at
#define MAX(a, b) select((a) > (b), a, b)
#define MIN(a, b) select((a) > (b), b, a)
#define LOOKUP lookup_plain
#include "additive.h"

KERNEL(additive_encode) {
  OPEN(additive_encode, 6);
  u64 n = (u64)call_int(c, 2, "n", 0, (1ll << 31) - 1), width = (u64)call_int(c, 3, "width", 1, WIDTH_MAX);
  u64 parts = (u64)call_int(c, 4, "parts", 1, PARTS_MAX);
  const f32_at *vectors = (const f32_at *)call_in(c, 0, "vectors", 4 * width * n).at;
  Words words, *w = &words;
  w->parts = (int)parts, w->width = (int)width;
  w->words = (const f32_at *)call_in(c, 1, "words", 4 * WORDS * width * parts).at;
  u8 *out = call_out(c, 5, "out", parts * n).at;
  if (!call_ready(c)) return call_close(c, 0);
  int fine = 1;
  for (u64 i = 0; i < n * width; i++) fine &= vectors[i] < VALUE_MAX && vectors[i] > -VALUE_MAX;
  for (u64 i = 0; i < WORDS * width * parts; i++) fine &= w->words[i] < VALUE_MAX && w->words[i] > -VALUE_MAX;
  if (!fine) {
    FAIL(c, "%s", "a number of vectors or words is not between -2^40 and 2^40");
    return call_close(c, 0);
  }
  for (u64 j = 0; j < parts; j++)
    for (int v = 0; v < WORDS; v++) {
      const f32_at *mine = w->words + (j * WORDS + (u64)v) * width;
      f32 square = 0;
      for (u64 k = 0; k < width; k++) square += mine[k] * mine[k];
      w->half[j][v] = 0.5f * square;
      for (u64 i = 0; i < j; i++)
        for (int u = 0; u < WORDS; u++) {
          const f32_at *other = w->words + (i * WORDS + (u64)u) * width;
          f32 dot = 0;
          for (u64 k = 0; k < width; k++) dot += other[k] * mine[k];
          w->overlaps[i][j][v][u] = dot;
        }
    }
  int path = scan_path_now();
  (void)path;
  u64 at = 0;
#if defined(__x86_64__) && !defined(KERN_BASELINE)
  if (path == 2)
    for (; at < n; at += 16) search_avx512(w, vectors, n, at, out);
  if (path == 1)
    for (; at < n; at += 8) search_avx2(w, vectors, n, at, out);
#endif
  for (; at < n; at += 4) search_plain(w, vectors, n, at, out);
  return call_close(c, n);
}

KERNEL(scalar_encode) {
  OPEN(scalar_encode, 5);
  u64 n = (u64)call_int(c, 2, "n", 0, (1ll << 31) - 1), count = (u64)call_int(c, 3, "count", 0, CUTS_MAX);
  const f32_at *values = (const f32_at *)call_in(c, 0, "values", 4 * n).at;
  const f32_at *cuts = (const f32_at *)call_in(c, 1, "cuts", 4 * count).at;
  u8 *out = call_out(c, 4, "out", n).at;
  if (!call_ready(c)) return call_close(c, 0);
  f32 padded[CUTS_MAX];
  u32 widest = 1;
  while (widest <= count) widest *= 2;
  for (u64 i = 0; i < widest - 1; i++) padded[i] = i < count ? cuts[i] : __builtin_inff();
  u32 cells[AT_A_TIME];
  for (u64 at = 0; at < n; at += AT_A_TIME) {
    u64 some = n - at < AT_A_TIME ? n - at : AT_A_TIME;
    for (u64 i = 0; i < some; i++) cells[i] = 0;
    for (u32 step = widest / 2; step; step /= 2)  // without branches: which half it is cannot be guessed
      for (u64 i = 0; i < some; i++) cells[i] += __builtin_unpredictable(padded[cells[i] + step - 1] < values[at + i]) ? step : 0;
    for (u64 i = 0; i < some; i++) out[at + i] = (u8)cells[i];
  }
  return call_close(c, n);
}
