// Plans of many queries at one price: what vantage.search.plan makes of each, in one call. For builders.
#include "call.h"
#include "simd.h"

enum { RANGES_MAX = 64, BLOCKS_MAX = 1 << 20, NEW_OBJECT = 1, NO_VALUE = 2, STARTS = 1, TAKEN = 2, SPARSE = 4 };
enum { PRICE_BITS = 24, LANES = 6, SHORT = 512 << 10, SPLIT = 128 << 10, RANGE_BYTES = 4 << 20, LONGEST_SHARE = 16 };
static const i64 LIMIT = (i64)1 << 60, NEVER = -((i64)1 << 62);
static const f64 ROUND_MS = 40, LANE_BYTES_PER_MS = 60000, ROUND_SHARE = 1.0 / 3;
static const u64 ROUND_BYTES = 2400000;
typedef __int128 i128;

// What a plan is made of: blocks, or where few have a probability those and the gaps between them.
typedef struct {
  const u32_at *p, *size, *first;  // first: block of an item; 0 where items are blocks
  const u64_at *at;
  const u8 *flags;
  u32 count;
} Items;

// Runs of items that are all worth more than nothing, or all not, so that a best range begins and ends where runs do:
// inside of a run of the first kind it would be longer, or one with its neighbour, of the second shorter.
typedef struct {
  i64 *value;   // of a run
  u64 *before;  // probability before a run, and after the last
  u32 *start;   // its first item, and the end of the last
  u8 *fresh, *choice;
  u32 count;
} Runs;

typedef struct {
  u32 (*at)[2];  // items [a, b)
  u64 *length;
  u32 count;
  u64 gain;
} Pieces;

typedef struct {
  i64 open[RANGES_MAX + 1], best[RANGES_MAX + 1];
  u32 most;
} Totals;

typedef struct {
  Items items;
  Runs runs;
  Totals totals;
  u64 price;
  Pieces pieces[3];
} Work;

static u64 length_of(const Items *i, u32 a, u32 b) { return i->at[b - 1] + i->size[b - 1] - i->at[a]; }

// -> whether the sums stay below LIMIT
static int find_runs(Work *w) {
  const Items *items = &w->items;
  Runs *runs = &w->runs;
  u64 gain = 0, bytes = 0;
  int last = -1;
  u32 count = 0;
  for (u32 i = 0; i < items->count; i++) {
    u64 p = items->flags[i] & NO_VALUE ? 0 : items->p[i];
    i64 value = (i64)((p << PRICE_BITS) - w->price * items->size[i]);
    int worth = value > 0;
    if (worth != last || items->flags[i] & NEW_OBJECT) {
      runs->value[count] = 0;
      runs->before[count] = gain;
      runs->start[count] = i;
      runs->fresh[count++] = items->flags[i] & NEW_OBJECT;
      last = worth;
    }
    runs->value[count - 1] = (i64)((u64)runs->value[count - 1] + (u64)value);  // sums that wrap are refused below
    gain += p;
    bytes += items->size[i];
  }
  runs->before[count] = gain;
  runs->start[count] = items->count;
  runs->count = count;
  return gain < (u64)LIMIT >> PRICE_BITS && (i128)w->price * bytes < LIMIT;
}

// As plan_ranges, over runs, for all numbers of ranges up to `most`.
static void find_totals(Work *w, u32 most) {
  Totals *t = &w->totals;
  for (u32 r = 0; r <= most; r++) t->open[r] = t->best[r] = NEVER;
  t->best[0] = 0;
  t->most = most;
  for (u32 b = 0; b < w->runs.count; b++) {
    i64 value = w->runs.value[b];
    u8 *choice = w->runs.choice + (u64)b * (most + 1);
    int fresh = w->runs.fresh[b];
    for (u32 r = most; r > 0; r--) {
      i64 before = fresh ? NEVER : t->open[r];
      int starts = t->best[r - 1] >= before;
      i64 open = (starts ? t->best[r - 1] : before) + value;
      t->open[r] = open = open < -LIMIT ? NEVER : open;
      int taken = open > t->best[r];
      t->best[r] = taken ? open : t->best[r];
      choice[r] = (u8)((starts ? STARTS : 0) | (taken ? TAKEN : 0));
    }
  }
}

// The at most `count` best ranges, by the totals of at least as many.
static void find_ranges(const Work *w, u32 count, Pieces *out) {
  const Totals *t = &w->totals;
  u32 ranges = 0;
  for (u32 r = 1; r <= count; r++)
    if (t->best[r] > t->best[ranges]) ranges = r;
  out->count = ranges;
  out->gain = 0;
  for (u32 r = ranges, b = w->runs.count; r > 0; r--) {
    while (!(w->runs.choice[(u64)(b - 1) * (t->most + 1) + r] & TAKEN)) b--;
    u32 end = b;
    while (!(w->runs.choice[(u64)(b - 1) * (t->most + 1) + r] & STARTS)) b--;
    b--;
    out->at[r - 1][0] = w->runs.start[b];
    out->at[r - 1][1] = w->runs.start[end];
    out->gain += w->runs.before[end] - w->runs.before[b];
  }
}

// Halves the longest between items while there are fewer than `most`, and any over RANGE_BYTES. Lengths of one item, which
// cannot be cut, are 0 meanwhile.
static void cut(const Work *w, u32 most, Pieces *out) {
  const Items *items = &w->items;
  for (u32 i = 0; i < out->count; i++)
    out->length[i] = out->at[i][1] - out->at[i][0] > 1 ? length_of(items, out->at[i][0], out->at[i][1]) : 0;
  while (out->count) {
    u32 i = 0;
    for (u32 j = 1; j < out->count; j++)
      if (out->length[j] > out->length[i]) i = j;
    if (out->length[i] <= (u64)(out->count < most ? SPLIT : RANGE_BYTES)) break;
    u32 a = out->at[i][0], b = out->at[i][1], low = a + 1, high = b - 1;
    u64 half = items->at[a] + out->length[i] / 2;
    while (low < high) {
      u32 middle = low + (high - low) / 2;
      if (items->at[middle] < half)
        low = middle + 1;
      else
        high = middle;
    }
    u32 end = low;
    while (items->flags[end - 1] & NO_VALUE) end--;
    while (items->flags[low] & NO_VALUE) low++;
    for (u32 j = out->count++; j > i + 1; j--) {
      out->at[j][0] = out->at[j - 1][0];
      out->at[j][1] = out->at[j - 1][1];
      out->length[j] = out->length[j - 1];
    }
    out->at[i][1] = end;
    out->at[i + 1][0] = low;
    out->at[i + 1][1] = b;
    for (u32 j = i; j <= i + 1; j++)
      out->length[j] = out->at[j][1] - out->at[j][0] > 1 ? length_of(items, out->at[j][0], out->at[j][1]) : 0;
  }
  for (u32 i = 0; i < out->count; i++) out->length[i] = length_of(items, out->at[i][0], out->at[i][1]);
}

static u64 longest_of(const Pieces *p) {
  u64 longest = 0;
  for (u32 i = 0; i < p->count; i++) longest = p->length[i] > longest ? p->length[i] : longest;
  return longest;
}

static void swap(Pieces *a, Pieces *b) {
  Pieces held = *a;
  *a = *b;
  *b = held;
}

// vantage.search.plan._even_ranges; trial: room.
static void even_ranges(Work *w, u32 most, Pieces *best, Pieces *trial) {
  i128 least = 0;
  int least_fits = 0, first = 1;
  find_totals(w, most);
  for (u32 count = most; count > (most - 1) / LANES * LANES; count--) {
    find_ranges(w, count, trial);
    cut(w, most, trial);
    u64 longest = longest_of(trial), sum = 0;
    if (count == most && longest <= SHORT) {
      swap(best, trial);
      return;
    }
    for (u32 i = 0; i < trial->count; i++) sum += trial->length[i];
    i128 worth = ((i128)trial->gain << PRICE_BITS) - (i128)w->price * (sum + LANES * longest / LONGEST_SHARE);
    int fits = trial->count <= most;
    if (!first && (fits != least_fits ? fits < least_fits : worth <= least)) return;
    swap(best, trial);
    least = worth;
    least_fits = fits;
    first = 0;
  }
}

static f64 wave_ms(const Pieces *p, u64 *sorted) {
  u64 lanes[LANES] = {0}, fullest = 0;
  for (u32 i = 0; i < p->count; i++) {
    u32 j = i;
    for (; j > 0 && sorted[j - 1] < p->length[i]; j--) sorted[j] = sorted[j - 1];
    sorted[j] = p->length[i];
  }
  for (u32 i = 0; i < p->count; i++) {
    u32 lane = 0;
    for (u32 j = 1; j < LANES; j++)
      if (lanes[j] < lanes[lane]) lane = j;
    lanes[lane] += sorted[i];
  }
  for (u32 j = 0; j < LANES; j++) fullest = lanes[j] > fullest ? lanes[j] : fullest;
  return p->count ? ROUND_MS * ((p->count + LANES - 1) / LANES) + (f64)fullest / LANE_BYTES_PER_MS : 0;
}

// What pieces are worth, and their time; share: of a round's time that counts.
static i128 worth_of(const Work *w, const Pieces *p, f64 share, u64 *sorted, f64 *ms) {
  *ms = wave_ms(p, sorted);
  f64 counted = *ms - (1 - share) * ROUND_MS * ((p->count + LANES - 1) / LANES);
  f64 bytes = counted * (LANES * LANE_BYTES_PER_MS);
  bytes = (bytes + 0x1p52) - 0x1p52;  // halves to even: of at most 2^20 blocks of 2^32 bytes, so below 2^52
  return ((i128)p->gain << PRICE_BITS) - (i128)w->price * (i64)bytes;
}

// vantage.search.plan.ranges_of -> pieces[0]
static void plan_query(Work *w, u32 most, u64 *sorted) {
  Pieces *best = &w->pieces[0], *more = &w->pieces[1], *trial = &w->pieces[2];
  u32 count = most < LANES ? most : LANES;
  even_ranges(w, count, best, trial);
  f64 share = best->count > LANES ? ROUND_SHARE : 1;
  while (count < RANGES_MAX) {
    if (best->count <= count && (count >= most || longest_of(best) <= ROUND_BYTES)) break;
    u32 rounds = (best->count + LANES - 1) / LANES * LANES, limit = most > rounds ? most : rounds;
    count += LANES;
    count = count < limit ? count : limit;
    count = count < RANGES_MAX ? count : RANGES_MAX;
    even_ranges(w, count, more, trial);
    f64 ms, more_ms;
    i128 worth = worth_of(w, best, share, sorted, &ms), more_worth = worth_of(w, more, share, sorted, &more_ms);
    if (more_worth > worth || (more_worth == worth && more_ms < ms)) swap(best, more);
  }
}

// Blocks with a probability and the gaps between them, as vantage.search.plan.items_of.
typedef struct {
  u32 *p, *size, *first;
  u64 *at;
  u8 *flags;
} Room;
static void find_items(Work *w, const u32_at *p, const u32_at *size, const u64_at *at, const u8 *flags, u32 blocks,
                       const Room *room) {
  u32 named = 0, *names = w->runs.start;  // which runs take later; without branches, as none can be guessed
  for (u32 b = 0; b < blocks; b++) {
    names[named] = b;
    named += p[b] != 0;
  }
  w->items = (Items){p, size, 0, at, flags, blocks};
  if (!named || (u64)SPARSE * named >= blocks) return;
  u32 count = 0, after = 0;
  for (u32 i = 0; i < named; i++) {
    u32 b = names[i];
    int starts = !count;
    if (count && b > after) {
      u64 gap = at[b] - at[after];
      starts = gap > (u64)RANGE_BYTES;
      if (!starts) {
        room->p[count] = 0;
        room->size[count] = (u32)gap;
        room->flags[count] = NO_VALUE;
        room->at[count] = at[after];
        room->first[count++] = after;
      }
    }
    room->p[count] = p[b];
    room->size[count] = size[b];
    room->flags[count] = (u8)((flags[b] & NO_VALUE) | (starts ? NEW_OBJECT : 0));
    room->at[count] = at[b];
    room->first[count++] = b;
    after = b + 1;
  }
  w->items = (Items){(u32_at *)room->p, (u32_at *)room->size, (u32_at *)room->first, (u64_at *)room->at, room->flags, count};
}

// Of all arrays below, each with a place more than there are blocks: 8-byte, 4-byte and byte columns, and choices.
enum { WIDE = 7, NARROW = 10, BYTES = 2 + RANGES_MAX + 1 };
static u64 scratch_size(u64 blocks) { return (blocks + 1) * (8 * WIDE + 4 * NARROW + BYTES) + 8; }

typedef struct {
  const u32_at *p, *size;
  const u64_at *at;
  const u8 *flags;
  int own_flags;  // of each query
  u64 queries;
  u32 blocks;
} Given;

// -> how many queries were planned, up to one whose sums reach LIMIT
static u64 plan_all(Work *w, const Room *room, u64 *sorted, u32 most, Given given, Span lengths, u32_at *counts, u8 *read,
                    u64 *total) {
  u64 blocks = given.blocks;
  for (u64 q = 0; q < given.queries; q++) {
    const u8 *flags = given.flags + (given.own_flags ? q * blocks : 0);
    find_items(w, given.p + q * blocks, given.size, given.at, flags, given.blocks, room);
    if (!find_runs(w)) return q;
    plan_query(w, most, sorted);
    const Pieces *plan = &w->pieces[0];
    counts[q] = plan->count;
    u8 *own = read + q * blocks;
    for (u64 b = 0; b < blocks; b++) own[b] = 0;
    for (u32 i = 0; i < plan->count; i++, ++*total) {
      u32 a = plan->at[i][0], b = plan->at[i][1] - 1;
      if (w->items.first) a = w->items.first[a], b = w->items.first[b];
      for (u32 j = a; j <= b; j++) own[j] = 1;
      if (4 * *total + 4 <= lengths.size) ((u32_at *)lengths.at)[*total] = (u32)plan->length[i];
    }
  }
  return given.queries;
}

KERNEL(plan_queries_size) {
  OPEN(plan_queries_size, 1);
  u64 blocks = (u64)call_int(c, 0, "blocks", 1, BLOCKS_MAX);
  return call_close(c, scratch_size(blocks));
}

KERNEL(plan_queries) {
  OPEN(plan_queries, 10);
  Span size_span = call_in(c, 1, "nbytes", 4);
  u64 blocks = size_span.size / 4;
  if (!c->failed && blocks > BLOCKS_MAX) FAIL(c, "nbytes has %llu blocks, at most 2^20", (unsigned long long)blocks);
  call_exact(c, "nbytes", size_span, 4 * blocks);
  Span p_span = call_in(c, 0, "p", 0), at_span = call_in(c, 2, "at", 0), flags_span = call_in(c, 3, "flags", 0);
  u64 queries = c->failed ? 0 : p_span.size / (4 * blocks);
  call_exact(c, "p", p_span, 4 * queries * blocks);
  call_exact(c, "at", at_span, 8 * blocks);
  if (flags_span.size != blocks) call_exact(c, "flags", flags_span, queries * blocks);
  Work work, *w = &work;
  w->price = (u64)call_int(c, 4, "price", 0, UINT32_MAX);
  u32 most = (u32)call_int(c, 5, "ranges_max", 1, RANGES_MAX);
  Span lengths = call_out(c, 6, "lengths", 0);
  u32_at *counts = (u32_at *)call_out(c, 7, "counts", 4 * queries).at;
  u8 *read = call_out(c, 8, "read", queries * blocks).at;
  u8 *scratch = call_out(c, 9, "scratch", scratch_size(blocks)).at;
  if (!call_ready(c)) return call_close(c, 0);
  const u32_at *p = (const u32_at *)p_span.at, *size = (const u32_at *)size_span.at;
  const u64_at *at = (const u64_at *)at_span.at;
  for (u64 b = 0; b + 1 < blocks; b++)
    if (at[b] > (u64)1 << 52 || at[b + 1] < at[b] + size[b]) {
      FAIL(c, "block %llu ends after the next begins, or lies beyond 2^52", (unsigned long long)b);
      return call_close(c, 0);
    }
  if (at[blocks - 1] > (u64)1 << 52) FAIL(c, "%s", "the last block lies beyond 2^52");

  u64 each = blocks + 1;
  u64 *wide = (u64 *)(((uintptr_t)scratch + 7) & ~(uintptr_t)7);
  Room room = {.at = wide};
  w->runs.value = (i64 *)(wide + each), w->runs.before = wide + 2 * each;
  u64 *sorted = wide + 3 * each;
  u32 *narrow = (u32 *)(wide + WIDE * each);
  room.p = narrow, room.size = narrow + each, room.first = narrow + 2 * each;
  w->runs.start = narrow + 3 * each;
  for (int i = 0; i < 3; i++) {
    w->pieces[i].length = wide + (4 + i) * each;
    w->pieces[i].at = (u32(*)[2])(narrow + (4 + 2 * i) * each);
  }
  u8 *bytes = (u8 *)(narrow + NARROW * each);
  room.flags = bytes, w->runs.fresh = bytes + each, w->runs.choice = bytes + 2 * each;
  u64 total = 0, planned = 0;
  Given given = {p, size, at, flags_span.at, flags_span.size != blocks, queries, (u32)blocks};
  WITHOUT_GIL(planned = plan_all(w, &room, sorted, most, given, lengths, counts, read, &total));
  if (planned < queries)
    FAIL(c, "sum(p) * 2^24 or price * sum(nbytes) reaches 2^60 in query %llu: use smaller units", (unsigned long long)planned);
  return call_close(c, total);
}
