// Router logits of blocks, and from them a probability for each, in integers of 2^-20, with exp and log of our own.
#include "call.h"
#include "exp.h"

#define INFINITY __builtin_inff()

// ln x for 0 and x >= 1; ln 0 = -inf, else within 1 ulp. x = 2^k m, m in [sqrt 1/2, sqrt 2), degree 9
// in m - 1 (coefficients of Cephes logf).
INLINE f32x4 log_lanes(f32x4 x) {
  i32x4 zero = x == splat(0.0f), bits = (i32x4)x - 0x3f3504f3;  // 0x3f3504f3: sqrt 1/2
  f32x4 k = to_f32(bits >> 23), m = (f32x4)((bits & 0x7fffff) + 0x3f3504f3) - splat(1.0f), z = m * m;
  f32x4 p = splat(7.0376836292e-2f);
  p = p * m + splat(-1.1514610310e-1f);
  p = p * m + splat(1.1676998740e-1f);
  p = p * m + splat(-1.2420140846e-1f);
  p = p * m + splat(1.4249322787e-1f);
  p = p * m + splat(-1.6668057665e-1f);
  p = p * m + splat(2.0000714765e-1f);
  p = p * m + splat(-2.4999993993e-1f);
  p = p * m + splat(3.3333331174e-1f);
  f32x4 y = (p * m) * z + k * splat(-2.12194440e-4f);
  y = (m + (y - splat(0.5f) * z)) + k * splat(0.693359375f);
  return select(zero, splat(-INFINITY), y);
}

INLINE f32x4 larger(f32x4 a, f32x4 b) { return select(a < b, b, a); }

// values[0..n) -> function of each
INLINE void map_lanes(f32x4 (*function)(f32x4), f32_at *values, u64 n) {
  for (u64 i = 0; i < n; i += 4) store_lanes(values + i, function(load_lanes(values + i, n - i)), n - i);
}
static f32x4 exp_each(f32x4 x) { return exp_lanes(x); }
static f32x4 log_each(f32x4 x) { return log_lanes(x); }

// What the logits of blocks come from: dots i32, scales and weights f32, all [blocks][subs].
typedef struct {
  const i32_at *dots;
  const f32_at *scales, *weights;
  u64 blocks, subs;
  f32 alpha;
} Logits;

// Checks the first five arguments, which every kernel over logits has, against so many blocks.
static Logits open_logits(Call *c, u64 blocks) {
  u64 subs = (u64)call_int(c, 3, "subs", 1, 65536);
  f32 alpha = call_f32(c, 4, "alpha");
  Span dots = call_in(c, 0, "dots", 0), scales = call_in(c, 1, "scales", 0), weights = call_in(c, 2, "weights", 0);
  call_exact(c, "dots", dots, blocks * subs * 4);
  call_exact(c, "scales", scales, blocks * subs * 4);
  call_exact(c, "weights", weights, blocks * subs * 4);
  return (Logits){(const i32_at *)dots.at, (const f32_at *)scales.at, (const f32_at *)weights.at, blocks, subs, alpha};
}

// peaks[b] = the largest logit of block b, scratch[b] = log(sum of exp(logit - peak)); scratch has room for all logits.
// Whether all of them are numbers, or -inf.
static int sum_logits(Call *c, const Logits *of, f32_at *peaks, f32_at *scratch) {
  u64 blocks = of->blocks, subs = of->subs, cells = blocks * subs;
  i32x4 bad = {0};
  for (u64 i = 0; i < cells; i += 4) {
    f32x4 weight = load_lanes(of->weights + i, cells - i), scale = load_lanes(of->scales + i, cells - i);
    i32x4 dot = (i32x4)load_lanes((const f32_at *)(of->dots + i), cells - i);
    f32x4 logit = weight + (splat(of->alpha) * scale) * to_f32(dot);
    logit = select(weight == splat(-INFINITY), weight, logit);
    bad |= ~(logit < splat(INFINITY));
    store_lanes(scratch + i, logit, cells - i);
  }
  if (any_lane(bad)) {
    u64 i = 0;
    while (scratch[i] < INFINITY) i++;
    FAIL(c, "the logit of block %llu, sub-centroid %llu is not finite", (unsigned long long)(i / subs),
         (unsigned long long)(i % subs));
    return 0;
  }
  for (u64 b = 0, i = 0; b < blocks; b++) {
    u64 end = i + subs;
    f32x4 peak = splat(-INFINITY);  // vectors, because a scalar maximum is a jump in Wasm
    for (u64 j = i; j < end; j++) peak = larger(peak, splat(scratch[j]));
    peaks[b] = peak[0];
    peak = larger(peak, splat(-0x1.fffffep127f));  // -inf minus this is -inf, minus itself is NaN
    for (; i < end; i++) scratch[i] = scratch[i] - peak[0];
  }
  map_lanes(exp_each, scratch, cells);
  for (u64 b = 0, i = 0; b < blocks; b++) {
    f32 sum = scratch[i++];
    for (u64 end = i + subs - 1; i < end; i++) sum = sum + scratch[i];
    scratch[b] = sum;
  }
  map_lanes(log_each, scratch, blocks);
  return 1;
}

// out f32[blocks]: the logit of each block, before any temperature.
KERNEL(block_logits) {
  OPEN(block_logits, 7);
  Span out_span = call_out(c, 5, "out", 4);
  u64 blocks = out_span.size / 4;
  call_exact(c, "out", out_span, blocks * 4);
  Logits of = open_logits(c, blocks);
  Span scratch_span = call_out(c, 6, "scratch", blocks * of.subs * 4);
  if (!call_ready(c)) return call_close(c, 0);
  f32_at *scratch = (f32_at *)scratch_span.at, *out = (f32_at *)out_span.at;
  if (!sum_logits(c, &of, out, scratch)) return call_close(c, 0);
  for (u64 b = 0; b < blocks; b++) out[b] = out[b] + scratch[b];
  return call_close(c, blocks);
}

// dots i32[blocks][subs], scales and weights f32[blocks][subs] -> out u32[blocks]; see kern.pyi for the arithmetic.
// Until the last pass, out[b] holds the f32 maximum of block b and scratch[0..blocks) what became of its sum.
KERNEL(block_probabilities) {
  OPEN(block_probabilities, 8);
  f32 temperature = call_f32(c, 5, "temperature");
  Span out_span = call_out(c, 6, "out", 4);
  u64 blocks = out_span.size / 4;
  call_exact(c, "out", out_span, blocks * 4);
  Logits of = open_logits(c, blocks);
  Span scratch_span = call_out(c, 7, "scratch", blocks * of.subs * 4);
  if (!c->failed && !(temperature > 0)) FAIL(c, "temperature is not above 0");
  if (!call_ready(c)) return call_close(c, 0);
  f32_at *scratch = (f32_at *)scratch_span.at, *peaks = (f32_at *)out_span.at;
  u32_at *out = (u32_at *)out_span.at;
  if (!sum_logits(c, &of, peaks, scratch)) return call_close(c, 0);
  f32 top = -INFINITY;
  for (u64 b = 0; b < blocks; b++) {
    f32 t = temperature * (peaks[b] + scratch[b]);
    if (!(t <= top)) top = t;
    scratch[b] = t;
  }
  if (!(top > -INFINITY && top < INFINITY)) {
    FAIL(c, "no block has a finite probability: all weights are -inf, or alpha and temperature are too large");
    return call_close(c, 0);
  }
  for (u64 b = 0; b < blocks; b++) scratch[b] = scratch[b] - top;
  map_lanes(exp_each, scratch, blocks);
  f64 mass = 0;
  for (u64 b = 0; b < blocks; b++) mass += scratch[b];
  for (u64 b = 0; b < blocks; b++) out[b] = (u32)((f64)scratch[b] / mass * 1048576.0 + 0.5);
  return call_close(c, blocks);
}
