// Which byte ranges to read: the at most ranges_max ranges of blocks with the largest total value, exactly.
#include "call.h"
#include "simd.h"

enum { RANGES_MAX = 64, BLOCKS_MAX = 1 << 20, NEW_OBJECT = 1, NO_VALUE = 2, STARTS = 1, TAKEN = 2 };
// Sums of gains and of costs stay below LIMIT, so that NEVER plus any sum is still below any sum.
static const i64 LIMIT = (i64)1 << 60, NEVER = -((i64)1 << 62);

// open[r]: the best total with r ranges of which the last ends with this block; best[r]: with r ranges up to this
// block.
//   open[r] = value + max(open[r] unless the block opens an object, best[r-1]), the latter if equal: ranges start late
//   best[r] = max(best[r], open[r]), the former if equal: ranges end early
// O(blocks ranges_max) time; scratch u8[blocks][ranges_max + 1] remembers the choices.
KERNEL(plan_ranges) {
  OPEN(plan_ranges, 7);
  u64 price = (u64)call_int(c, 3, "price", 0, UINT32_MAX), most = (u64)call_int(c, 4, "ranges_max", 1, RANGES_MAX);
  Span flags_span = call_in(c, 2, "flags", 1);
  u64 blocks = flags_span.size;
  if (!c->failed && blocks > BLOCKS_MAX) FAIL(c, "flags has %llu blocks, at most 2^20", (unsigned long long)blocks);
  Span p_span = call_in(c, 0, "p", 0), size_span = call_in(c, 1, "nbytes", 0);
  call_exact(c, "p", p_span, blocks * 4);
  call_exact(c, "nbytes", size_span, blocks * 4);
  u32_at *out = (u32_at *)call_out(c, 5, "out", most * 8).at;
  u8 *scratch = call_out(c, 6, "scratch", blocks * (most + 1)).at;
  if (!call_ready(c)) return call_close(c, 0);
  const u32_at *p = (const u32_at *)p_span.at, *nbytes = (const u32_at *)size_span.at;
  const u8 *flags = flags_span.at;

  u64 gain = 0, cost = 0;
  for (u64 b = 0; b < blocks; b++) {
    u64 g = (flags[b] & NO_VALUE) ? 0 : (u64)p[b] << 24, k = price * nbytes[b];
    gain = g < (u64)LIMIT - gain ? gain + g : (u64)LIMIT;
    cost = k < (u64)LIMIT - cost ? cost + k : (u64)LIMIT;
  }
  if (gain == (u64)LIMIT || cost == (u64)LIMIT) {
    FAIL(c, "%s reaches 2^60: use smaller units", gain == (u64)LIMIT ? "sum(p) * 2^24" : "price * sum(nbytes)");
    return call_close(c, 0);
  }

  i64 open[RANGES_MAX + 1], best[RANGES_MAX + 1];
  for (u64 r = 0; r <= most; r++) open[r] = best[r] = NEVER;
  best[0] = 0;
  for (u64 b = 0; b < blocks; b++) {
    i64 value = ((flags[b] & NO_VALUE) ? 0 : (i64)p[b] << 24) - (i64)(price * nbytes[b]);
    u8 *choice = scratch + b * (most + 1);
    int fresh = flags[b] & NEW_OBJECT;
    for (u64 r = most; r > 0; r--) {
      i64 before = fresh ? NEVER : open[r];
      int starts = best[r - 1] >= before;
      open[r] = (starts ? best[r - 1] : before) + value;
      // What was never reachable stays there, however much it gains.
      open[r] = open[r] < -LIMIT ? NEVER : open[r];
      int taken = open[r] > best[r];
      best[r] = taken ? open[r] : best[r];
      choice[r] = (u8)((starts ? STARTS : 0) | (taken ? TAKEN : 0));
    }
  }

  u64 count = 0;
  for (u64 r = 1; r <= most; r++)
    if (best[r] > best[count]) count = r;
  for (u64 r = count, b = blocks; r > 0; r--) {
    while (!(scratch[(b - 1) * (most + 1) + r] & TAKEN)) b--;
    out[2 * r - 1] = (u32)b;
    while (!(scratch[(b - 1) * (most + 1) + r] & STARTS)) b--;
    out[2 * r - 2] = (u32)--b;
  }
  return call_close(c, count);
}
