// The largest numbers of rows and where they stand, for blocks nearest to rows. For builders.
#include "call.h"
#include "simd.h"

enum { KEPT_MAX = 1024, WIDE = 16 };

// The sums of WIDE numbers with their biases from `i` on.
INLINE void sums_of(const f32_at *values, const f32_at *bias, u64 i, f32x4 out[4]) {
  for (int k = 0; k < 4; k++) out[k] = load_f32x4(values + i + 4 * k) + load_f32x4(bias + i + 4 * k);
}

INLINE i32x4 any_above(const f32x4 v[4], f32x4 limit) {
  return (v[0] > limit) | (v[1] > limit) | (v[2] > limit) | (v[3] > limit);
}

typedef struct {
  f32 value[KEPT_MAX];
  u32 at[KEPT_MAX], count;
} Kept;

// Enters a number after those that are as large.
INLINE void enter(Kept *kept, f32 value, u64 at) {
  u32 j = kept->count - 1;
  for (; j > 0 && kept->value[j - 1] < value; j--) {
    kept->value[j] = kept->value[j - 1];
    kept->at[j] = kept->at[j - 1];
  }
  kept->value[j] = value;
  kept->at[j] = (u32)at;
}

static void select_row(const f32_at *values, const f32_at *bias, u64 width, u32 count, Kept *kept) {
  u64 i = 0;
  for (kept->count = 0; i < count; i++) {
    kept->count++;
    enter(kept, values[i] + bias[i], i);
  }
  for (; i + WIDE <= width; i += WIDE) {
    f32x4 sums[4];
    sums_of(values, bias, i, sums);
    if (!any_lane(any_above(sums, splat(kept->value[count - 1])))) continue;
    for (int k = 0; k < WIDE; k++)
      if (sums[k / 4][k % 4] > kept->value[count - 1]) enter(kept, sums[k / 4][k % 4], i + (u64)k);
  }
  for (; i < width; i++)
    if (values[i] + bias[i] > kept->value[count - 1]) enter(kept, values[i] + bias[i], i);
}

KERNEL(select_largest) {
  OPEN(select_largest, 7);
  u64 n = (u64)call_int(c, 2, "n", 0, (1ll << 31) - 1), width = (u64)call_int(c, 3, "width", 1, (1ll << 31) - 1);
  u64 count = (u64)call_int(c, 4, "count", 1, width < KEPT_MAX ? (i64)width : KEPT_MAX);
  const f32_at *values = (const f32_at *)call_in(c, 0, "values", 4 * n * width).at;
  const f32_at *bias = (const f32_at *)call_in(c, 1, "bias", 4 * width).at;
  u32_at *at = (u32_at *)call_out(c, 5, "at", 4 * n * count).at;
  f32_at *largest = (f32_at *)call_out(c, 6, "largest", 4 * n * count).at;
  if (!call_ready(c)) return call_close(c, 0);
  Kept kept;
  for (u64 row = 0; row < n; row++) {
    select_row(values + row * width, bias, width, (u32)count, &kept);
    for (u64 k = 0; k < count; k++) {
      at[row * count + k] = kept.at[k];
      largest[row * count + k] = kept.value[k];
    }
  }
  return call_close(c, n);
}
