// Integer scores and what they may be off -> an interval of integers for each row; docs/exact.md has the proof.
#include "call.h"
#include "simd.h"

// scores i32[n], norms u8[n] -> lower, upper i32[n]: score -+ (floor(weight norm + slack) + 1), cut to 31 bits
KERNEL(score_bounds) {
  OPEN(score_bounds, 7);
  u64 n = (u64)call_int(c, 2, "n", 0, 0x7fffffff);
  f32 weight = call_f32(c, 3, "weight"), slack = call_f32(c, 4, "slack");
  if (!c->failed && !(weight >= 0 && slack >= 0)) FAIL(c, "weight and slack must not be negative");
  const i32_at *scores = (const i32_at *)call_in(c, 0, "scores", c->failed ? 0 : n * 4).at;
  const u8 *norms = call_in(c, 1, "norms", c->failed ? 0 : n).at;
  i32_at *lower = (i32_at *)call_out(c, 5, "lower", c->failed ? 0 : n * 4).at;
  i32_at *upper = (i32_at *)call_out(c, 6, "upper", c->failed ? 0 : n * 4).at;
  if (call_ready(c)) {
    for (u64 i = 0; i < n; i++) {
      i64 score = scores[i];
      f32 error = weight * (f32)norms[i] + slack;
      // A score that was clamped says nothing, and neither does one with an error of all there is.
      int known = error < 0x1p30f && score > -(1 << 30) && score < 1 << 30;
      i64 off = known ? (i64)error + 1 : (i64)1 << 32, low = score - off, high = score + off;
      lower[i] = low < INT32_MIN ? INT32_MIN : (i32)low;
      upper[i] = high > INT32_MAX ? INT32_MAX : (i32)high;
    }
  }
  return call_close(c, n);
}
