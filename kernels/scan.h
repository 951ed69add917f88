// A block under scan, groups of 16 rows, and the paths that add up their codes: the same bits on each.
#pragma once
#include "lrsq.h"

// Rows of a group lie across vectors as their bytes do in a u32: lane r of vector k is row 4 r + k.
typedef union {
  i32x4 lanes[4];
  i32 rows[4][4];
} Group;
enum { GROUP = 16, AT_ONCE = 4 };

// u16 sums of a group for one segment. `raw` adds table bytes in pairs as they lie, even rows + 256 x odd rows mod
// 2^16, `odd` the odd rows alone: so even rows = raw - 256 odd, and a lookup costs three operations for 16 rows. A
// segment's 64 nibbles add up to at most 16320, so nothing overflows; 256 passes << 8 stay below 2^31.
INLINE void flush(u16x8 raw, u16x8 odd, u32 shift, Group *sum) {
  u32x4 even = (u32x4)(raw - (odd << 8)), other = (u32x4)odd;
  sum->lanes[0] += (i32x4)((even & 0xffff) << shift);
  sum->lanes[1] += (i32x4)((other & 0xffff) << shift);
  sum->lanes[2] += (i32x4)((even >> 16) << shift);
  sum->lanes[3] += (i32x4)((other >> 16) << shift);
}

// By u16: V8 builds the mask of a byte shift anew each time, which costs an eighth of the scan.
INLINE u8x16 high_nibbles(u8x16 code) { return (u8x16)((u16x8)code >> 4) & 15; }

typedef struct {
  const Tables *tables;
  const u8 *codes, *f, *h;
  const u32_at *rows;
  u32 n, code_bytes, place;
  f32 unit, bias, scale, base, f_lo, f_step, h_lo, h_step;
} Scan;

// Sums of a group -> score * scale of its rows, not yet rounded. f, h u8[16].
INLINE void score_group(const Scan *s, const u8 *f, const u8 *h, const Group *sums, f32x4 values[4]) {
  u32x4 f4 = (u32x4)load16(f), h4 = (u32x4)load16(h);
  for (u32 k = 0; k < 4; k++) {
    f32x4 factor = s->f_lo + s->f_step * to_f32((i32x4)(f4 >> 8 * k & 255));
    f32x4 addend = s->h_lo + s->h_step * to_f32((i32x4)(h4 >> 8 * k & 255));
    f32x4 dot = to_f32(sums->lanes[k]) * s->unit + s->bias;
    values[k] = (s->base + (addend + factor * dot)) * s->scale;
  }
}

// values[g] = score_group of `count` groups from row `at` on. -> bit g: a value of group g is not below `limit`, or NaN.
typedef u32 Path(const Scan *s, u32 at, int count, f32 limit, f32x4 values[AT_ONCE][4]);
INLINE u32 reaches(const f32x4 values[4], f32 limit) {
  i32x4 below = (values[0] < limit) & (values[1] < limit) & (values[2] < limit) & (values[3] < limit);
  return (u32)any_lane(~below);
}

int scan_path_now(void);  // the path in use
#if defined(__x86_64__) && !defined(KERN_BASELINE)
Path values_avx2, values_avx512;
int scan_best(void);  // the last path of scan.c that this processor has
#else
INLINE int scan_best(void) { return 0; }
#endif
