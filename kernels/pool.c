// The bounded pool: offers are appended, and now and then one pass drops copies and all but the best. A row dropped
// with score s stays out unless it is offered with a better score, because `capacity` other rows beat (s, row) for
// good.
#include "pool.h"

enum { CAPACITY_MAX = 65536, HEADER = 32, IDLE = 0x4c4f4f50, BUSY = 0x59535542 };  // "POOL", "BUSY"
typedef struct __attribute__((packed, aligned(1), may_alias)) {
  u32 state, capacity, count;
  i32 score_min;
  u32 row_max, zero[3];
} Header;

// Twice the capacity: a longer buffer compacts less often but keeps a weaker bound for longer.
static u32 room_for(u32 capacity) { return 2 * capacity + 128; }
static u32 slot_bits_for(u32 capacity) {
  u32 bits = 8;
  while (1u << bits < 2 * room_for(capacity)) bits++;
  return bits;
}
static u64 size_for(u32 capacity) {
  return HEADER + (u64)room_for(capacity) * sizeof(Entry) + ((u64)4 << slot_bits_for(capacity));
}

void pool_open(Pool *pool, Call *c, Span span) {
  const Header *h = (const Header *)span.at;
  if (c->failed) return;
  if (span.size < HEADER || (h->state != IDLE && h->state != BUSY) || h->capacity - 1 >= CAPACITY_MAX ||
      span.size < size_for(h->capacity) || h->count >= room_for(h->capacity))
    FAIL(c, "pool is not a pool: set it up with pool_reset");
  else if (h->state == BUSY)
    FAIL(c, "pool is in use by another thread");
  if (c->failed) return;
  *pool = (Pool){.base = span.at,
                 .entries = (Entry *)(span.at + HEADER),
                 .capacity = h->capacity,
                 .room = room_for(h->capacity),
                 .count = h->count,
                 .slot_bits = slot_bits_for(h->capacity),
                 .score_min = h->score_min,
                 .row_max = h->row_max};
  pool->slots = (u32_at *)(pool->entries + pool->room);
  ((Header *)pool->base)->state = BUSY;
}

void pool_close(Pool *pool) {
  *(Header *)pool->base = (Header){IDLE, pool->capacity, pool->count, pool->score_min, pool->row_max, {0}};
}

// The order of the result as a number: score desc, then row asc.
INLINE u64 key_of(Entry e) { return (u64)(0x7fffffffu - (u32)e.score) << 32 | e.row; }

// Keeps the best entry of each row.
static void drop_copies(Pool *pool) {
  u32 mask = (1u << pool->slot_bits) - 1, kept = 0;
  for (u32 i = 0; i <= mask; i++) pool->slots[i] = 0;
  for (u32 i = 0; i < pool->count; i++) {
    Entry e = pool->entries[i];
    u32 slot = e.row * 0x9e3779b1u >> (32 - pool->slot_bits);
    while (pool->slots[slot] && pool->entries[pool->slots[slot] - 1].row != e.row) slot = (slot + 1) & mask;
    if (!pool->slots[slot]) {
      pool->entries[kept++] = e;
      pool->slots[slot] = kept;
      continue;
    }
    Entry *other = &pool->entries[pool->slots[slot] - 1];
    if (e.score > other->score ||
        (e.score == other->score && (e.place < other->place || (e.place == other->place && e.index < other->index))))
      *other = e;
  }
  pool->count = kept;
}

// The key of rank `capacity` among at least as many: radix selection by 8 bits at a time from the first that differ, on
// a copy of the keys that shrinks to those still in question. Linear, whatever the keys are.
static u64 last_key(const Pool *pool) {
  u64_at *keys = (u64_at *)pool->slots;  // room for `room` of them: there are at least 2 room slots
  u64 differ = 0;
  u32 n = pool->count, rank = pool->capacity - 1;
  for (u32 i = 0; i < n; i++) {
    keys[i] = key_of(pool->entries[i]);
    differ |= keys[i] ^ keys[0];
  }
  for (int top = differ ? 64 - __builtin_clzll(differ) : 0; n > 1; top -= 8) {
    int shift = top > 8 ? top - 8 : 0;
    u32 counts[256], byte = 0, kept = 0;
    for (int i = 0; i < 256; i++) counts[i] = 0;
    for (u32 i = 0; i < n; i++) counts[(u8)(keys[i] >> shift)]++;
    while (rank >= counts[byte]) rank -= counts[byte++];
    for (u32 i = 0; i < n; i++) {
      u64 key = keys[i];
      keys[kept] = key;
      kept += (u8)(key >> shift) == byte;
    }
    n = kept;
  }
  return keys[0];
}

void pool_compact(Pool *pool) {
  drop_copies(pool);
  if (pool->count < pool->capacity) return;
  u64 last = last_key(pool);
  u32 kept = 0;
  for (u32 i = 0; i < pool->count; i++) {
    Entry e = pool->entries[i];
    if (key_of(e) <= last) pool->entries[kept++] = e;
  }
  pool->count = kept;
  pool->score_min = (i32)(0x7fffffffu - (u32)(last >> 32));
  pool->row_max = (u32)last;
}

// Sorts the entries of a compacted pool into `out`: bytes from the lowest up, skipping those that all keys share, back
// and forth between `out` and the free half of the pool.
static void sort_into(const Pool *pool, Entry *out) {
  u32 counts[8][256], n = pool->count, passes = 0;
  for (int k = 0; k < 8; k++)
    for (int b = 0; b < 256; b++) counts[k][b] = 0;
  for (u32 i = 0; i < n; i++)
    for (int k = 0; k < 8; k++) counts[k][(u8)(key_of(pool->entries[i]) >> 8 * k)]++;
  u64 first = n ? key_of(pool->entries[0]) : 0;
  for (int k = 0; k < 8; k++) passes += counts[k][(u8)(first >> 8 * k)] != n;
  const Entry *from = pool->entries;
  if (!passes)
    for (u32 i = 0; i < n; i++) out[i] = from[i];
  for (int k = 0; k < 8; k++) {
    if (counts[k][(u8)(first >> 8 * k)] == n) continue;
    Entry *to = passes-- % 2 ? out : pool->entries + pool->capacity;
    u32 at = 0;
    for (int b = 0; b < 256; b++) {
      u32 count = counts[k][b];
      counts[k][b] = at;
      at += count;
    }
    for (u32 i = 0; i < n; i++) {
      Entry e = from[i];
      to[counts[k][(u8)(key_of(e) >> 8 * k)]++] = e;
    }
    from = to;
  }
}

KERNEL(pool_size) {
  OPEN(pool_size, 1);
  u32 capacity = (u32)call_int(c, 0, "capacity", 1, CAPACITY_MAX);
  return call_close(c, c->failed ? 0 : size_for(capacity));
}

KERNEL(pool_reset) {
  OPEN(pool_reset, 2);
  u32 capacity = (u32)call_int(c, 1, "capacity", 1, CAPACITY_MAX);
  u8 *base = call_out(c, 0, "pool", c->failed ? 0 : size_for(capacity)).at;
  if (call_ready(c)) *(Header *)base = (Header){IDLE, capacity, 0, INT32_MIN, UINT32_MAX, {0}};
  return call_close(c, 0);
}

// scores i32[n], rows u32[n]: offers rows[i] with scores[i], place and index i
KERNEL(pool_offer) {
  (void)module;
  Call call, *c = &call;
  call_open(c, "pool_offer", argv, argc, 4, 5);
  u32 place = (u32)call_int(c, 3, "place", 0, UINT32_MAX);
  Span buffer = call_out(c, 0, "pool", 0), scores = call_in(c, 1, "scores", 0), rows = call_in(c, 2, "rows", 0);
  u64 n = scores.size / 4;
  call_exact(c, "scores", scores, n * 4);
  call_exact(c, "rows", rows, n * 4);
  Span mask = {0, 0};
  if (argc == 5) mask = call_in(c, 4, "mask", (n + 7) / 8);
  Pool pool;
  if (call_ready(c)) pool_open(&pool, c, buffer);
  if (!c->failed) {
    for (u64 i = 0; i < n; i++)
      if (!mask.at || mask.at[i / 8] >> i % 8 & 1)
        pool_push(&pool, ((const i32_at *)scores.at)[i], ((const u32_at *)rows.at)[i], place, (u32)i);
    pool_close(&pool);
  }
  return call_close(c, n);
}

// out Entry[capacity] <- the best, in order; the pool goes on
KERNEL(pool_finish) {
  OPEN(pool_finish, 2);
  Span buffer = call_out(c, 0, "pool", 0), out = call_out(c, 1, "out", 0);
  Pool pool;
  pool.count = 0;
  if (call_ready(c)) pool_open(&pool, c, buffer);
  if (!c->failed) {
    u64 size = pool.capacity * sizeof(Entry);
    if (out.size < size) {
      FAIL(c, "out has %llu bytes, needs %llu", (unsigned long long)out.size, (unsigned long long)size);
    } else {
      pool_compact(&pool);
      sort_into(&pool, (Entry *)out.at);
    }
    pool_close(&pool);
  }
  return call_close(c, pool.count);
}
