// Evaluates a filter over the columns of a block: postfix steps over sets of rows, one bit a row.
#include "call.h"
#include "simd.h"

enum { ABSENT, TABLE, PLAIN, LISTS };
enum { NULLS = 1, BITS_MAX = 16, CODES = 1 << BITS_MAX, STACK_MAX = 16, PADDING = 4 };
enum { TERM, AND, OR, NOT };
enum { COLUMN_BYTES = 16, STEP_BYTES = 8, HEAD_BYTES = 8, SPAN_BYTES = 16, SET_ROWS = 16 };

// A column of n rows: its keys, `entries` of them in a table, counts of values and codes; there: which rows have a key.
typedef struct {
  u8 coding, nulls, bits, width;
  u32 entries;
  i64 base;
  const u8 *keys, *counts, *codes, *there;
  u64 values;
} Column;

typedef struct {
  const i64_at *at;  // pairs of low and high, rising and apart
  u32 count;
} Spans;

static u64 set_bytes(u64 n) { return (n + SET_ROWS - 1) / SET_ROWS * (SET_ROWS / 8); }
static u64 scratch_bytes(u64 n) { return CODES + STACK_MAX * set_bytes(n); }

INLINE i64 key_at(const Column *k, u64 i) {
  u64 delta = k->width == 1   ? k->keys[i]
              : k->width == 2 ? *(const u16_at *)(k->keys + 2 * i)
              : k->width == 4 ? *(const u32_at *)(k->keys + 4 * i)
                              : *(const u64_at *)(k->keys + 8 * i);
  return (i64)((u64)k->base + delta);
}

// The plane ends with PADDING bytes, so that a code may be read as four.
INLINE u32 code_at(const u8 *codes, u32 bits, u64 i) {
  u64 bit = i * bits;
  return *(const u32_at *)(codes + bit / 8) >> bit % 8 & ((1u << bits) - 1);
}

// -> whether a key is in a span
static int holds(Spans s, i64 key) {
  u32 low = 0, high = s.count;  // the first span that ends at the key or after it
  while (low < high) {
    u32 middle = (low + high) / 2;
    if (s.at[2 * middle + 1] < key) low = middle + 1;
    else high = middle;
  }
  return low < s.count && s.at[2 * low] <= key;
}

// Takes a column off the plane: checks its head, and that its body is there. -> bytes of the body
static u64 open_column(Call *c, const u8 *head, Span plane, u64 at, u64 n, u64 number, Column *k) {
  k->coding = head[0];
  k->nulls = head[1];
  k->bits = head[2];
  k->width = head[3];
  k->entries = *(const u32_at *)(head + 4);
  k->base = *(const i64_at *)(head + 8);
  if (k->coding == ABSENT) return 0;
  int wide = k->width == 1 || k->width == 2 || k->width == 4 || k->width == 8;
  if (k->coding > LISTS || k->nulls > NULLS || k->bits > BITS_MAX || !wide || k->entries > CODES) {
    FAIL(c, "column %llu has coding %d, flags %d, %d bits, width %d and %u entries", (unsigned long long)number, k->coding,
         k->nulls, k->bits, k->width, k->entries);
    return 0;
  }
  u64 left = plane.size - PADDING - at, need = k->coding == PLAIN ? k->nulls * ((n + 7) / 8) : (u64)k->entries * k->width;
  k->there = plane.at + at;
  k->keys = plane.at + at + (k->coding == PLAIN ? need : 0);
  need += k->coding == PLAIN ? n * k->width : k->coding == LISTS ? n : 0;
  k->values = n;
  if (need <= left && k->coding == LISTS) {
    k->counts = plane.at + at + need - n;
    k->values = 0;
    for (u64 i = 0; i < n; i++) k->values += k->counts[i];
  }
  k->codes = plane.at + at + need;
  if (k->coding != PLAIN) need += (k->values * k->bits + 7) / 8;
  if (need > left) FAIL(c, "column %llu ends outside of the plane", (unsigned long long)number);
  return need;
}

// Which codes are those of keys in a span; -> one past the largest code there is.
static u32 mark_codes(Call *c, const Column *k, Spans spans, u8 *hits) {
  u32 nulls = k->coding == TABLE ? k->nulls : 0, span = 0;
  hits[0] = 0;
  for (u32 i = 0; i < k->entries; i++) {
    i64 key = key_at(k, i);
    if (i && key <= key_at(k, i - 1)) FAIL(c, "the keys of a column do not rise");
    while (span < spans.count && spans.at[2 * span + 1] < key) span++;
    if (i + nulls < CODES) hits[i + nulls] = span < spans.count && spans.at[2 * span] <= key;
  }
  return k->entries + nulls;
}

// set = the rows of a column that have a value in a span
static void term(Call *c, const Column *k, Spans spans, u64 n, u8 *hits, u8 *set) {
  for (u64 i = 0; i < set_bytes(n); i++) set[i] = 0;
  if (k->coding == PLAIN) {
    for (u64 i = 0; i < n; i++) {
      int there = k->nulls ? k->there[i / 8] >> i % 8 & 1 : 1;
      set[i / 8] |= (u8)((there && holds(spans, key_at(k, i))) << i % 8);
    }
    return;
  }
  u32 codes = mark_codes(c, k, spans, hits), code = 0;
  u64 at = 0;
  for (u64 i = 0; i < n && !c->failed; i++) {
    u32 hit = 0;
    for (u64 end = k->coding == LISTS ? at + k->counts[i] : at + 1; at < end; at++) {
      code = code_at(k->codes, k->bits, at);
      if (code >= codes) FAIL(c, "a column has code %u, of %u entries", code, k->entries);
      else hit |= hits[code];
    }
    set[i / 8] |= (u8)(hit << i % 8);
  }
}

// The column of this number, which has to be in the plane.
static Column column_of(Call *c, Span plane, u64 columns, u64 n, u64 number) {
  Column k = {0};
  u64 at = 4 + columns * COLUMN_BYTES;
  for (u64 i = 0; i <= number && !c->failed; i++)
    at += open_column(c, plane.at + 4 + i * COLUMN_BYTES, plane, at, n, i, &k);
  if (k.coding == ABSENT) FAIL(c, "column %llu is not in the plane", (unsigned long long)number);
  return k;
}

static void check_columns(Call *c, Span plane, u64 columns) {
  u64 own = *(const u32_at *)plane.at;
  if (own != columns) FAIL(c, "the plane has %llu columns, not %llu", (unsigned long long)own, (unsigned long long)columns);
}

// pairs = the keys of a column that rows of the mask have, each with how many of them do; -> how many pairs
// with_value: rows of the mask that have any.
static u64 count_keys(Call *c, const Column *k, u64 n, const u8 *mask, i64_at *pairs, u64 room, u64 *with_value) {
  u64 used = 0, at = 0;
  *with_value = 0;
  if (k->coding == PLAIN) {
    if (room < n) FAIL(c, "out has room for %llu pairs, not %llu", (unsigned long long)room, (unsigned long long)n);
    for (u64 i = 0; i < n && !c->failed; i++) {
      int there = k->nulls ? k->there[i / 8] >> i % 8 & 1 : 1;
      if (!there || !(mask[i / 8] >> i % 8 & 1)) continue;
      pairs[2 * used] = key_at(k, i);
      pairs[2 * used++ + 1] = 1;
    }
    *with_value = used;
    return used;
  }
  u32 nulls = k->coding == TABLE ? k->nulls : 0;
  if (room < k->entries) FAIL(c, "out has room for %llu pairs, not %u", (unsigned long long)room, k->entries);
  for (u32 i = 0; i < k->entries && !c->failed; i++) {
    pairs[2 * i] = key_at(k, i);
    pairs[2 * i + 1] = 0;
    if (i && pairs[2 * i] <= pairs[2 * i - 2]) FAIL(c, "the keys of a column do not rise");
  }
  for (u64 i = 0; i < n && !c->failed; i++) {
    u64 end = k->coding == LISTS ? at + k->counts[i] : at + 1, some = 0;
    if (!(mask[i / 8] >> i % 8 & 1)) at = end;
    for (; at < end && !c->failed; at++) {
      u32 code = code_at(k->codes, k->bits, at);
      if (code < nulls) continue;
      if (code - nulls >= k->entries) FAIL(c, "a column has code %u, of %u entries", code, k->entries);
      else pairs[2 * (code - nulls) + 1]++, some = 1;
    }
    *with_value += some;
  }
  for (u32 i = 0; i < k->entries && !c->failed; i++) {
    if (!pairs[2 * i + 1]) continue;
    pairs[2 * used] = pairs[2 * i];
    pairs[2 * used++ + 1] = pairs[2 * i + 1];
  }
  return used;
}

// Runs the steps; the last set that is left is the answer. Failures are of the program, or of a column.
static void run(Call *c, Span plane, u64 n, u64 columns, Span program, u8 *out, u8 *scratch) {
  u32 steps = *(const u32_at *)program.at, spans = *(const u32_at *)(program.at + 4), used = 0, depth = 0;
  const u8 *step = program.at + HEAD_BYTES;
  const i64_at *pairs = (const i64_at *)(step + (u64)steps * STEP_BYTES);
  u64 bytes = set_bytes(n);
  u8 *hits = scratch, *stack = scratch + CODES;
  for (u32 s = 0; s < steps && !c->failed; s++, step += STEP_BYTES) {
    u32 code = step[0], number = *(const u16_at *)(step + 2), count = *(const u32_at *)(step + 4);
    u32 taken = code == TERM ? 0 : code == NOT ? 1 : 2;
    if (code > NOT || depth < taken || depth - taken + 1 > STACK_MAX || (code == TERM && number >= columns) ||
        count > spans - used || (code != TERM && count)) {
      FAIL(c, "step %u of the program, code %u of column %u and %u spans at depth %u, does not fit", s, code, number, count,
           depth);
      return;
    }
    if (code == TERM) {
      Column k = column_of(c, plane, columns, n, number);
      if (c->failed) return;
      Spans own = {pairs + 2 * (u64)used, count};
      for (u32 i = 0; i < count; i++)
        if (own.at[2 * i] > own.at[2 * i + 1] || (i && own.at[2 * i] <= own.at[2 * i - 1]))
          FAIL(c, "span %u of the program does not rise", used + i);
      if (c->failed) return;
      term(c, &k, own, n, hits, stack + depth * bytes);
      used += count;
    } else {
      u8 *a = stack + (depth - taken) * bytes, *b = a + bytes;
      for (u64 i = 0; i < bytes; i++) a[i] = code == NOT ? (u8)~a[i] : code == AND ? a[i] & b[i] : a[i] | b[i];
    }
    depth = depth - taken + 1;
  }
  if (!c->failed && (depth != 1 || used != spans)) FAIL(c, "the program leaves %u sets and %u spans", depth, spans - used);
  if (c->failed) return;
  for (u64 i = 0; i < bytes; i++) out[i] = 8 * i + 8 <= n ? stack[i] : 8 * i < n ? stack[i] & ((1u << (n - 8 * i)) - 1) : 0;
}

KERNEL(filter_rows_size) {
  OPEN(filter_rows_size, 1);
  u64 n = (u64)call_int(c, 0, "n", 0, INT32_MAX);
  return call_close(c, call_ready(c) ? scratch_bytes(n) : 0);
}

KERNEL(filter_rows) {
  OPEN(filter_rows, 6);
  u64 n = (u64)call_int(c, 1, "n", 0, INT32_MAX), columns = (u64)call_int(c, 2, "columns", 0, UINT16_MAX + 1);
  Span plane = call_in(c, 0, "plane", 4 + columns * COLUMN_BYTES + PADDING);
  Span program = call_in(c, 3, "program", HEAD_BYTES);
  Span out = call_out(c, 4, "out", set_bytes(n)), scratch = call_out(c, 5, "scratch", scratch_bytes(n));
  if (!c->failed) {
    check_columns(c, plane, columns);
    u64 steps = *(const u32_at *)program.at, spans = *(const u32_at *)(program.at + 4);
    call_exact(c, "program", program, HEAD_BYTES + steps * STEP_BYTES + spans * SPAN_BYTES);
  }
  u64 found = 0;
  if (call_ready(c)) {
    run(c, plane, n, columns, program, out.at, scratch.at);
    for (u64 i = 0; i < set_bytes(n) && !c->failed; i++) found += (u64)__builtin_popcount(out.at[i]);
  }
  return call_close(c, found);
}

KERNEL(column_counts) {
  OPEN(column_counts, 6);
  u64 n = (u64)call_int(c, 1, "n", 0, INT32_MAX), columns = (u64)call_int(c, 2, "columns", 1, UINT16_MAX + 1);
  u64 number = (u64)call_int(c, 3, "column", 0, (i64)columns - 1);
  Span plane = call_in(c, 0, "plane", 4 + columns * COLUMN_BYTES + PADDING);
  Span mask = call_in(c, 4, "mask", set_bytes(n)), out = call_out(c, 5, "out", 8);
  if (!c->failed) check_columns(c, plane, columns);
  u64 pairs = 0;
  if (call_ready(c)) {
    Column k = column_of(c, plane, columns, n, number);
    u64 with_value = 0;
    if (!c->failed)
      pairs = count_keys(c, &k, n, mask.at, (i64_at *)(out.at + 8), (out.size - 8) / 16, &with_value);
    *(i64_at *)out.at = (i64)with_value;
  }
  return call_close(c, pairs);
}
