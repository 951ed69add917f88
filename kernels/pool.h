// The best `capacity` distinct rows over everything offered, in a buffer of the caller: score desc, row asc; a row
// counts with its highest score, then lowest place and index. The outcome does not depend on the order of the offers.
#pragma once
#include "call.h"
#include "simd.h"

typedef struct __attribute__((packed, aligned(1), may_alias)) {
  i32 score;
  u32 row, place, index;
} Entry;

// An open pool: the fields live here, not in the buffer, so that nothing the caller's buffer holds can be out of
// bounds.
typedef struct {
  u8 *base;
  Entry *entries;  // [room], of which count are filled, not sorted and with copies in them
  u32_at *slots;   // [1 << slot_bits], the hash table of a compaction
  u32 capacity, room, count, slot_bits;
  i32 score_min;  // an offer below (score_min, row_max) can no longer be among the best
  u32 row_max;
} Pool;

void pool_open(Pool *, Call *, Span);  // takes the pool out of its buffer and marks it in use
void pool_close(Pool *);               // puts it back
void pool_compact(Pool *);             // one entry a row, the best `capacity`, and the new bound

INLINE void pool_push(Pool *pool, i32 score, u32 row, u32 place, u32 index) {
  if (score < pool->score_min || (score == pool->score_min && row > pool->row_max)) return;
  pool->entries[pool->count++] = (Entry){score, row, place, index};
  if (pool->count == pool->room) pool_compact(pool);
}
