// The largest numbers of rows and where they stand, for blocks nearest to rows. For builders.
#include "select.h"

#include "call.h"
#include "scan.h"

void kept_open(Kept *kept, u32 most) {
  for (int i = 0; i < LANES; i++) kept->value[i] = __builtin_inff(), kept->at[i] = 0;
  for (u32 i = 0; i < KEPT_MAX && i < most + LANES; i++) kept->value[LANES + i] = __builtin_nanf(""), kept->at[LANES + i] = 0;
  kept->most = most;
}

void kept_load(Kept *kept, const f32_at *value, const u32_at *at) {
  for (u32 i = 0; i < kept->most; i++) kept->value[LANES + i] = value[i], kept->at[LANES + i] = at[i];
}

void kept_store(const Kept *kept, f32_at *value, u32_at *at) {
  for (u32 i = 0; i < kept->most; i++) value[i] = kept->value[LANES + i], at[i] = kept->at[LANES + i];
}

// Enters a number after those that are as large: from there on each takes the place of the next.
INLINE void enter(Kept *kept, f32 number, u32 place) {
  f32x16 all = all_f32x16(number);
  u32 j = (kept->most - 1) / LANES * LANES;
  for (;; j -= LANES) {
    f32 *value = kept->value + LANES + j;
    u32 *at = kept->at + LANES + j;
    f32x16 own = load_f32x16(value), before = load_f32x16(value - 1);
    i32x16 own_at = (i32x16)load_f32x16(at), before_at = (i32x16)load_f32x16(at - 1);
    i32x16 stays = own >= all, here = before >= all;
    i32x16 moved = (here & (i32x16)all) | (~here & (i32x16)before);
    i32x16 moved_at = (here & (i32)place) | (~here & before_at);
    store_f32x16(value, (f32x16)((stays & (i32x16)own) | (~stays & moved)));
    store_f32x16(at, (f32x16)((stays & own_at) | (~stays & moved_at)));
    if (!j || before[0] >= number) break;
  }
}

INLINE void offer(Kept *kept, const f32_at *values, const f32_at *bias, u64 width, u64 first) {
  u64 i = 0;
  for (; i < width && first + i < kept->most; i++) enter(kept, values[i] + bias[i], (u32)(first + i));
  const f32 *least = kept->value + LANES + kept->most - 1;
  for (; i + LANES <= width; i += LANES) {
    union {
      f32x16 all;
      f32 each[LANES];
    } sums = {load_f32x16(values + i) + load_f32x16(bias + i)};
    for (u32 above = bits_of(sums.all > *least); above; above &= above - 1) {
      int lane = __builtin_ctz(above);
      if (sums.each[lane] > *least) enter(kept, sums.each[lane], (u32)(first + i) + (u32)lane);
    }
  }
  for (; i < width; i++)
    if (values[i] + bias[i] > *least) enter(kept, values[i] + bias[i], (u32)(first + i));
}

#define OFFER Kept *kept, const f32_at *values, const f32_at *bias, u64 width, u64 first
#if defined(WIDER_LANES)
static AVX2 void offer_avx2(OFFER) { offer(kept, values, bias, width, first); }
static AVX512 void offer_avx512(OFFER) { offer(kept, values, bias, width, first); }
#endif
void kept_offer(Kept *kept, int path, const f32_at *values, const f32_at *bias, u64 width, u64 first) {
#if defined(WIDER_LANES)
  if (path == 2) return offer_avx512(kept, values, bias, width, first);
  if (path == 1) return offer_avx2(kept, values, bias, width, first);
#endif
  (void)path;
  offer(kept, values, bias, width, first);
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
  int path = scan_path_now();
  Kept kept;
  for (u64 row = 0; row < n; row++) {
    kept_open(&kept, (u32)count);
    kept_offer(&kept, path, values + row * width, bias, width, 0);
    kept_store(&kept, largest + row * count, at + row * count);
  }
  return call_close(c, n);
}
