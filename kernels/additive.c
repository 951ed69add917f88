// Finds sums of table rows near to vectors, for encoding: beam search, a table at a time.
#include "call.h"
#include "simd.h"

enum { WORDS = 16, BEAM = 16, PARTS_MAX = 16, VECTORS = BEAM / 4 };

// The best sums so far, best first: scores, NaN where there are fewer, and places: sum it came from, times 16, plus row.
typedef struct {
  f32x4 scores[VECTORS];
  i32x4 places[VECTORS];
} Best;

// Puts a sum behind its equals; the last one goes. Without a branch: how far a sum moves up cannot be guessed.
INLINE void keep(Best *best, f32 score, i32 place) {
  f32x4 new_score = splat(score);
  i32x4 new_place = {place, place, place, place}, worse[VECTORS];
  for (int k = 0; k < VECTORS; k++) worse[k] = ~(best->scores[k] >= new_score);
  for (int k = VECTORS - 1; k >= 0; k--) {  // lane i takes the one before it, where that is worse, or the new one
    f32x4 score_above = k ? best->scores[k - 1] : new_score;
    i32x4 place_above = k ? best->places[k - 1] : new_place, worse_above = k ? worse[k - 1] : (i32x4){0};
    i32x4 moves = __builtin_shufflevector(worse_above, worse[k], 3, 4, 5, 6);
    f32x4 score_before = __builtin_shufflevector(score_above, best->scores[k], 3, 4, 5, 6);
    i32x4 place_before = __builtin_shufflevector(place_above, best->places[k], 3, 4, 5, 6);
    best->scores[k] = select(worse[k], select(moves, score_before, new_score), best->scores[k]);
    best->places[k] = (worse[k] & ((moves & place_before) | (~moves & new_place))) | (~worse[k] & best->places[k]);
  }
}

// gains f32[parts][16] of one vector -> codes u8[parts]
INLINE void search(const f32_at *gains, const f32_at *overlaps, int parts, u8 *out) {
  u8 codes[2][BEAM][PARTS_MAX];
  f32 before[BEAM] = {0};
  i32 places[BEAM];
  int from = 1;
  for (int p = 0; p < parts; p++) {
    int last = p == parts - 1 ? 0 : BEAM - 1;  // the place of the worst sum that is kept
    Best best = {0};
    for (int k = 0; k < VECTORS; k++) best.scores[k] = splat(__builtin_nanf(""));
    f32 least = best.scores[0][0];
    for (int b = 0; b < from; b++) {
      f32x4 sums[4];
      for (int k = 0; k < 4; k++) sums[k] = splat(before[b]) + load_f32x4(gains + WORDS * p + 4 * k);
      for (int i = 0; i < p; i++) {
        const f32_at *overlap = overlaps + WORDS * (WORDS * (i * parts + p) + codes[p % 2][b][i]);
        for (int k = 0; k < 4; k++) sums[k] -= load_f32x4(overlap + 4 * k);
      }
      for (int k = 0; k < 4; k++) {
        if (!any_lane(~(splat(least) >= sums[k]) & (sums[k] == sums[k]))) continue;
        for (int lane = 0; lane < 4; lane++) {
          f32 score = sums[k][lane];
          if (least >= score || score != score) continue;
          keep(&best, score, WORDS * b + 4 * k + lane);
          least = best.scores[last / 4][last % 4];
        }
      }
    }
    store_f32x4(before, best.scores[0]), store_f32x4(before + 4, best.scores[1]);
    store_f32x4(before + 8, best.scores[2]), store_f32x4(before + 12, best.scores[3]);
    for (int k = 0; k < VECTORS; k++) store16(places + 4 * k, (u8x16)best.places[k]);
    for (from = 0; from <= last && before[from] == before[from]; from++) {
      for (int i = 0; i < p; i++) codes[1 - p % 2][from][i] = codes[p % 2][places[from] / WORDS][i];
      codes[1 - p % 2][from][p] = (u8)(places[from] % WORDS);
    }
  }
  for (int p = 0; p < parts; p++) out[p] = from ? codes[parts % 2][0][p] : 0;
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
