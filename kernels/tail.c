// How many answers each block is expected to hold: rows that a filter takes, normal around their block's centre.
#include "call.h"
#include "exp.h"

enum { CODES = 256, HALVINGS = 32 };

// out f32[blocks] += weights[j] x the count that byte j of each block stands for: 0, then steps of a quarter from 1 on.
KERNEL(sum_counts) {
  OPEN(sum_counts, 3);
  Span table = call_in(c, 0, "table", 0), weights = call_in(c, 1, "weights", 0), out = call_out(c, 2, "out", 0);
  u64 buckets = weights.size / 4, blocks = out.size / 4;
  call_exact(c, "weights", weights, buckets * 4);
  call_exact(c, "out", out, blocks * 4);
  call_exact(c, "table", table, buckets * blocks);
  if (call_ready(c)) {
    f32 count[CODES] = {0, 1};
    for (u32 i = 2; i < CODES; i++) count[i] = count[i - 1] * 1.25f;
    f32_at *sums = (f32_at *)out.at;
    for (u64 j = 0; j < buckets; j++) {
      f32 weight = ((const f32_at *)weights.at)[j];
      const u8 *codes = table.at + j * blocks;
      if (weight == 0) continue;
      for (u64 b = 0; b < blocks; b++) sums[b] += weight * count[codes[b]];
    }
  }
  return call_close(c, blocks);
}

// The upper tail of the standard normal at z, within 1e-7: Abramowitz and Stegun, 26.2.17.
INLINE f32x4 upper_tail(f32x4 z) {
  f32x4 away = select(z < splat(0), -z, z);
  f32x4 t = splat(1) / (splat(1) + splat(0.2316419f) * away);
  f32x4 p = splat(1.330274429f);
  p = p * t + splat(-1.821255978f);
  p = p * t + splat(1.781477937f);
  p = p * t + splat(-0.356563782f);
  p = p * t + splat(0.319381530f);
  f32x4 tail = (exp_lanes(splat(-0.5f) * (away * away)) * splat(0.3989422804f)) * (p * t);
  return select(z < splat(0), splat(1) - tail, tail);
}

typedef struct {
  const f32_at *counts, *base, *sigma;
  u64 blocks;
} Tails;

// The rows of four blocks from b on that are expected above a score.
INLINE f32x4 above(const Tails *t, u64 b, f32 score) {
  u64 left = t->blocks - b;
  f32x4 count = load_lanes(t->counts + b, left), base = load_lanes(t->base + b, left), sigma = load_lanes(t->sigma + b, left);
  f32x4 z = (splat(score) - base) / select(sigma > splat(0), sigma, splat(1));
  return count * upper_tail(z);
}

static f64 sum_above(const Tails *t, f32 score) {
  f64 sum = 0;
  for (u64 b = 0; b < t->blocks; b += 4) {
    f32x4 rows = above(t, b, score);
    for (u64 i = 0; i < 4 && b + i < t->blocks; i++) sum += (f64)rows[i];
  }
  return sum;
}

KERNEL(tail_probabilities) {
  OPEN(tail_probabilities, 5);
  Span counts = call_in(c, 0, "counts", 0), base = call_in(c, 1, "base", 0), sigma = call_in(c, 2, "sigma", 0);
  f32 wanted = call_f32(c, 3, "wanted");
  Span out_span = call_out(c, 4, "out", 4);
  u64 blocks = out_span.size / 4;
  call_exact(c, "out", out_span, blocks * 4);
  call_exact(c, "counts", counts, blocks * 4);
  call_exact(c, "base", base, blocks * 4);
  call_exact(c, "sigma", sigma, blocks * 4);
  if (!c->failed && !(wanted > 0)) FAIL(c, "wanted is not above 0");
  if (call_ready(c)) {
    Tails t = {(const f32_at *)counts.at, (const f32_at *)base.at, (const f32_at *)sigma.at, blocks};
    u32_at *out = (u32_at *)out_span.at;
    f32 low = __builtin_inff(), high = -__builtin_inff();
    for (u64 b = 0; b < blocks && !c->failed; b++) {
      f32 n = t.counts[b], at = t.base[b], spread = t.sigma[b];
      if (!(n >= 0 && n < 0x1p40f) || !(at < 0x1p100f && at > -0x1p100f) || !(spread > 0 && spread < 0x1p100f)) {
        FAIL(c, "block %llu has a count, base or sigma that is none", (unsigned long long)b);
        break;
      }
      if (n == 0) continue;
      if (at - 6 * spread < low) low = at - 6 * spread;
      if (at + 6 * spread > high) high = at + 6 * spread;
    }
    if (!c->failed) {
      for (u32 i = 0; i < HALVINGS && low < high; i++) {
        f32 middle = low + (high - low) * 0.5f;
        if (sum_above(&t, middle) > (f64)wanted) low = middle;
        else high = middle;
      }
      f64 total = sum_above(&t, low);
      for (u64 b = 0; b < blocks; b += 4) {
        f32x4 rows = above(&t, b, low);
        for (u64 i = 0; i < 4 && b + i < blocks; i++) {
          u32 p = total > 0 ? (u32)((f64)rows[i] / total * 0x1p20 + 0.5) : 0;
          out[b + i] = p ? p : t.counts[b + i] > 0;
        }
      }
    }
  }
  return call_close(c, blocks);
}
