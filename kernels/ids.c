// Which ids of a plane may be in a table of ids: open addressing by hashes of 64 bits, so whoever asks looks once more at
// the few that are said to be.
#include "call.h"
#include "simd.h"

enum { WIDTH_MAX = 32, SLOTS_MIN = 2 };

// NUL bytes at the end of an id do not count: they may be padding. 0 stands for an empty slot.
INLINE u64 hash_of(const u8 *p, u64 size) {
  while (size && !p[size - 1]) size--;
  u64 h = size * 0x9e3779b97f4a7c15u;
  for (u64 i = 0; i < size; i += 8) {
    u64 word = 0;
    if (i + 8 <= size) {
      word = *(const u64_at *)(p + i);
    } else {
      for (u64 j = i; j < size; j++) word |= (u64)p[j] << 8 * (j - i);
    }
    h = (h ^ word) * 0xbf58476d1ce4e5b9u;
    h ^= h >> 29;
  }
  h *= 0x94d049bb133111ebu;
  h ^= h >> 32;
  return h ? h : 1;
}

typedef struct {
  Span plane;
  u64 width, n;
} Ids;

static Ids take_ids(Call *c) {
  Ids ids = {.width = (u64)call_int(c, 1, "width", 0, WIDTH_MAX), .n = (u64)call_int(c, 2, "n", 0, INT32_MAX)};
  ids.plane = call_in(c, 0, "ids", ids.width ? ids.width * ids.n : 4 * (ids.n + 1));
  return ids;
}

static void check_table(Call *c, Span table) {
  u64 slots = table.size / 8;
  if (!c->failed && (table.size % 8 || slots < SLOTS_MIN || slots & (slots - 1)))
    FAIL(c, "table has %llu bytes, wants 8 times a power of two", (unsigned long long)table.size);
}

// The hash of id i; 0 after a failure.
INLINE u64 hash_at(Call *c, const Ids *ids, u64 i) {
  if (ids->width) return hash_of(ids->plane.at + ids->width * i, ids->width);
  const u32_at *ends = (const u32_at *)ids->plane.at;
  u64 low = ends[i], high = ends[i + 1], start = 4 * (ids->n + 1);
  if (low > high || start + high > ids->plane.size) {
    FAIL(c, "id %llu ends outside of the ids", (unsigned long long)i);
    return 0;
  }
  return hash_of(ids->plane.at + start + low, high - low);
}

// The slot of a hash: its own, or the empty one where it belongs; `slots` where there is neither.
INLINE u64 slot_of(const u64_at *table, u64 slots, u64 hash) {
  u64 at = hash & (slots - 1), tried = 0;
  while (table[at] && table[at] != hash) {
    if (++tried == slots) return slots;
    at = (at + 1) & (slots - 1);
  }
  return at;
}

KERNEL(ids_add) {
  OPEN(ids_add, 4);
  Ids ids = take_ids(c);
  Span table = call_out(c, 3, "table", 8 * SLOTS_MIN);
  check_table(c, table);
  u64 added = 0, slots = table.size / 8;
  if (call_ready(c)) {
    u64_at *own = (u64_at *)table.at;
    for (u64 i = 0; i < ids.n && !c->failed; i++) {
      u64 hash = hash_at(c, &ids, i), at = hash ? slot_of(own, slots, hash) : 0;
      if (!hash) break;
      if (at == slots) {
        FAIL(c, "table has no room for id %llu", (unsigned long long)i);
      } else if (!own[at]) {
        own[at] = hash;
        added++;
      }
    }
  }
  return call_close(c, added);
}

KERNEL(ids_in) {
  OPEN(ids_in, 5);
  Ids ids = take_ids(c);
  Span table = call_in(c, 3, "table", 8 * SLOTS_MIN);
  check_table(c, table);
  u64 bytes = (ids.n + 15) / 16 * 2, found = 0, slots = table.size / 8;
  u8 *out = call_out(c, 4, "out", c->failed ? 0 : bytes).at;
  if (call_ready(c)) {
    const u64_at *own = (const u64_at *)table.at;
    for (u64 i = 0; i < bytes; i++) out[i] = 0;
    for (u64 i = 0; i < ids.n && !c->failed; i++) {
      u64 hash = hash_at(c, &ids, i);
      if (!hash) break;
      u64 at = slot_of(own, slots, hash);
      if (at < slots && own[at]) {
        out[i / 8] |= (u8)(1u << i % 8);
        found++;
      }
    }
  }
  return call_close(c, found);
}
