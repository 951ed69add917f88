// Which of the best copies of rows a query answers with, given the blocks that it reads, and how many are right. For
// builders.
#include "call.h"
#include "simd.h"

enum { KEPT_MAX = 65536 };

typedef struct {
  const i32_at *block, *twin;
  const u8 *read;
  u64 queries, blocks, copies;
} Copies;

static void take_copies(Call *c, Copies *copies) {
  copies->queries = (u64)call_int(c, 3, "n", 0, (1ll << 31) - 1);
  copies->copies = (u64)call_int(c, 4, "copies", 1, KEPT_MAX);
  copies->blocks = (u64)call_int(c, 5, "blocks", 1, 1ll << 31);
  u64 size = 4 * copies->queries * copies->copies;
  copies->block = (const i32_at *)call_in(c, 0, "block", size).at;
  copies->twin = (const i32_at *)call_in(c, 1, "twin", size).at;
  copies->read = call_in(c, 2, "read", copies->queries * copies->blocks).at;
}

// out[i]: whether copy i of query q is the first read one of one of the `most` best rows, for those up to the last such
// one. -> how many that are, or more copies than there are where something is out of range
INLINE u64 answer(const Copies *c, u64 q, u64 most, u8 *out) {
  const i32_at *block = c->block + q * c->copies, *twin = c->twin + q * c->copies;
  const u8 *read = c->read + q * c->blocks;
  u8 seen[KEPT_MAX + 1];  // whether this copy of a row or an earlier one is read; of no copy, then of each
  u64 found = 0, i = 0;
  seen[0] = 0;
  for (; i < c->copies && found < most; i++) {
    i32 b = block[i], t = twin[i];
    if (b >= (i64)c->blocks || t >= (i64)i) return c->copies + 1;
    // Without branches: which copies have a twin cannot be guessed.
    u8 before = seen[t < 0 ? 0 : (u32)t + 1], is_read = (u8)((read[b < 0 ? 0 : b] != 0) & (b >= 0));
    seen[i + 1] = before | is_read;
    out[i] = is_read & (u8)!before;
    found += out[i];
  }
  return i;
}

static void refuse(Call *c, u64 q) {
  FAIL(c, "query %llu has a block out of range or a twin that is not before its copy", (unsigned long long)q);
}

KERNEL(find_answered) {
  OPEN(find_answered, 8);
  Copies copies;
  take_copies(c, &copies);
  u64 most = (u64)call_int(c, 6, "most", 0, INT32_MAX);
  u8 *out = call_out(c, 7, "out", copies.queries * copies.copies).at;
  if (!call_ready(c)) return call_close(c, 0);
  for (u64 q = 0; q < copies.queries && !c->failed; q++) {
    u64 end = answer(&copies, q, most, out + q * copies.copies);
    if (end > copies.copies) refuse(c, q);
    for (; end < copies.copies; end++) out[q * copies.copies + end] = 0;
  }
  return call_close(c, copies.queries);
}

KERNEL(count_right) {
  OPEN(count_right, 11);
  Copies copies;
  take_copies(c, &copies);
  u64 most = (u64)call_int(c, 6, "most", 0, INT32_MAX), depth = (u64)call_int(c, 9, "depth", 1, KEPT_MAX);
  const i32_at *rank = (const i32_at *)call_in(c, 7, "rank", 4 * copies.queries * copies.copies).at;
  const i32_at *better = (const i32_at *)call_in(c, 8, "better", 4 * copies.queries * depth).at;
  u32_at *out = (u32_at *)call_out(c, 10, "out", 4 * copies.queries).at;
  if (!call_ready(c)) return call_close(c, 0);
  u8 answered[KEPT_MAX];
  for (u64 q = 0; q < copies.queries && !c->failed; q++) {
    u64 end = answer(&copies, q, most, answered);
    if (end > copies.copies) {
      refuse(c, q);
      break;
    }
    i64 room = 0, surely = 0, tying = 0;
    for (u64 i = 0; i < depth; i++) room += better[q * depth + i] >= 0;
    i32 last = better[q * depth + (u64)(room ? room - 1 : 0)];
    for (u64 i = 0; i < end; i++) {
      i32 r = rank[q * copies.copies + i];
      surely += answered[i] & (r >= 0) & (r < last);
      tying += answered[i] & (r >= 0) & (r == last);
    }
    room = (room ? room : 1) - (last > 0 ? last : 0);
    out[q] = (u32)(surely + (tying < room ? tying : room));
  }
  return call_close(c, copies.queries);
}
