// Finds sums of table rows near to vectors, for encoding: beam search, a table at a time.
#include "call.h"
#include "simd.h"

enum { WORDS = 16, BEAM = 16, PARTS_MAX = 16 };
typedef struct {
  int count;
  f32 scores[BEAM];
  u8 places[BEAM];  // sum it came from, times 16, plus row
} Best;

// Puts a sum among the best `most` so far, behind its equals; the last one goes when there are so many already.
INLINE void keep(Best *best, int most, f32 score, u32 place) {
  int at = best->count < most ? best->count++ : most - 1;
  for (; at > 0 && best->scores[at - 1] < score; at--) {
    best->scores[at] = best->scores[at - 1];
    best->places[at] = best->places[at - 1];
  }
  best->scores[at] = score;
  best->places[at] = (u8)place;
}

// gains f32[parts][16] of one vector -> codes u8[parts]
INLINE void search(const f32_at *gains, const f32_at *overlaps, int parts, u8 *out) {
  u8 codes[2][BEAM][PARTS_MAX];
  f32 before[BEAM] = {0};
  Best best = {.count = 1};
  for (int p = 0; p < parts; p++) {
    int from = best.count, most = p == parts - 1 ? 1 : BEAM;
    for (int b = 0; b < from; b++) before[b] = p ? best.scores[b] : 0;
    best.count = 0;
    for (int b = 0; b < from; b++) {
      f32x4 sums[4];
      for (int k = 0; k < 4; k++) sums[k] = splat(before[b]) + load_f32x4(gains + WORDS * p + 4 * k);
      for (int i = 0; i < p; i++) {
        const f32_at *overlap = overlaps + WORDS * (WORDS * (i * parts + p) + codes[p % 2][b][i]);
        for (int k = 0; k < 4; k++) sums[k] -= load_f32x4(overlap + 4 * k);
      }
      for (int k = 0; k < 4; k++) {
        if (best.count == most && !any_lane((i32x4)(sums[k] > splat(best.scores[most - 1])))) continue;
        for (int lane = 0; lane < 4; lane++) {
          f32 score = sums[k][lane];
          if (best.count < most ? score == score : score > best.scores[most - 1])
            keep(&best, most, score, (u32)(WORDS * b + 4 * k + lane));
        }
      }
    }
    for (int b = 0; b < best.count; b++) {
      for (int i = 0; i < p; i++) codes[1 - p % 2][b][i] = codes[p % 2][best.places[b] / WORDS][i];
      codes[1 - p % 2][b][p] = best.places[b] % WORDS;
    }
  }
  for (int p = 0; p < parts; p++) out[p] = best.count ? codes[parts % 2][0][p] : 0;
}

KERNEL(additive_encode) {
  OPEN(additive_encode, 5);
  u64 n = (u64)call_int(c, 2, "n", 0, (1ll << 31) - 1), parts = (u64)call_int(c, 3, "parts", 1, PARTS_MAX);
  const f32_at *gains = (const f32_at *)call_in(c, 0, "gains", 4 * WORDS * parts * n).at;
  const f32_at *overlaps = (const f32_at *)call_in(c, 1, "overlaps", 4 * WORDS * WORDS * parts * parts).at;
  u8 *out = call_out(c, 4, "out", parts * n).at;
  if (!call_ready(c)) return call_close(c, 0);
  for (u64 i = 0; i < n; i++) search(gains + WORDS * parts * i, overlaps, (int)parts, out + parts * i);
  return call_close(c, n);
}
