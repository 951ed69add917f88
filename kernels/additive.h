// The search of additive.c for LANES vectors at once: included once for each path, which defines
//   LANES, PATH(name), TARGET: the attribute of its functions
//   F, I, FROM: vectors of LANES f32 and i32, and of f32 at any address;  MAX, MIN: of F, neither a NaN
//   LOOKUP(table, index): table[index & 15] in every lane, table f32[16]
#define BEST_OF(a, b)                        \
  do {                                       \
    F low = MIN(a, b);                       \
    a = MAX(a, b);                           \
    b = low;                                 \
  } while (0)

// Descending (Batcher's network of merges).
static inline TARGET __attribute__((always_inline)) void PATH(sort)(F *v) {
#define X(i, j) BEST_OF(v[i], v[j]);
  NETWORK(X)
#undef X
}

// best, descending: the largest 16 of itself and of v, which is descending too.
static inline TARGET __attribute__((always_inline)) void PATH(merge)(F *best, const F *v) {
#pragma clang loop unroll(full)
  for (int i = 0; i < BEAM; i++) best[i] = MAX(best[i], v[BEAM - 1 - i]);
#pragma clang loop unroll(full)
  for (int apart = BEAM / 2; apart; apart /= 2)
#pragma clang loop unroll(full)
    for (int i = 0; i < BEAM; i++)
      if (!(i & apart)) BEST_OF(best[i], best[i + apart]);
}

static TARGET void PATH(search)(const Words *w, const f32_at *vectors, u64 n, u64 at, u8 *out) {
  F before[BEAM], gains[WORDS], sums[WORDS], best[BEAM];
  union {
    I lanes;
    u32 each[LANES];
  } history[BEAM], next[BEAM];
  int count = n - at < LANES ? (int)(n - at) : LANES;
  before[0] = (F){0};
  history[0].lanes = (I){0};
  for (int part = 0, beams = 1; part < w->parts; part++, beams = BEAM) {
    int last = part == w->parts - 1;
    for (int v = 0; v < WORDS; v++) gains[v] = (F){0} - w->half[part][v];
    for (int j = 0; j < w->width; j++) {
      F x = {0};
      const f32_at *from = vectors + (u64)j * n + at;
      if (count == LANES)
        x = *(const FROM *)from;
      else
        for (int lane = 0; lane < count; lane++) x[lane] = from[lane];
      const f32_at *column = w->words + (u64)part * WORDS * w->width + j;
      for (int v = 0; v < WORDS; v++) gains[v] += x * column[(u64)v * w->width];
    }
    for (int b = 0; b < beams; b++) {
      for (int v = 0; v < WORDS; v++) sums[v] = before[b] + gains[v];
      for (int i = 0; i < part; i++) {
        I index = history[b].lanes >> 4 * i;
        for (int v = 0; v < WORDS; v++) sums[v] -= LOOKUP(w->overlaps[i][part][v], index);
      }
      for (int v = 0; v < WORDS; v++) sums[v] = (F)(((I)sums[v] & ~255) | (WORDS * b + v));
      if (last) {
        for (int v = 0; v < WORDS; v++) best[0] = b + v ? MAX(best[0], sums[v]) : sums[v];
        continue;
      }
      PATH(sort)(sums);
      if (b)
        PATH(merge)(best, sums);
      else
        for (int v = 0; v < BEAM; v++) best[v] = sums[v];
    }
    for (int k = 0; k < (last ? 1 : BEAM); k++) {
      before[k] = best[k];
      I place = (I)best[k] & 255;
      for (int lane = 0; lane < LANES; lane++) next[k].each[lane] = history[place[lane] / WORDS].each[lane];
      next[k].lanes |= (place & 15) << 4 * part;
    }
    for (int k = 0; k < (last ? 1 : BEAM); k++) history[k] = next[k];
  }
  for (int part = 0; part < w->parts; part++)
    for (int lane = 0; lane < count; lane++) out[part * n + at + lane] = history[0].each[lane] >> 4 * part & 15;
}
#undef BEST_OF
#undef LANES
#undef PATH
#undef TARGET
#undef F
#undef I
#undef FROM
#undef MAX
#undef MIN
#undef LOOKUP
