// Scans a block of lrsq codes: nibble tables, 16 interleaved rows at a time, into a pool or a list of scores.
#include "scan.h"
#include "pool.h"

typedef struct {
  u16x8 raw, odd;
} Sum16;

// Adds up a segment of `length` code bytes for `count` groups, in one pass over the codes where there are two tables: the
// codes are loaded and split once. passes and count are constants wherever this is inlined.
INLINE void sum_segment(int passes, int count, const u8 *codes, u64 stride, const u8 *table, u32 length, const u8 *shifts,
                        Group *sums) {
  Sum16 parts[2][2] = {0};
  for (u32 j = 0; j < length; j++, table += 32) {
    for (int g = 0; g < count; g++) {
      u8x16 code = load16(codes + (u64)g * stride + GROUP * j), low = code & 15, high = high_nibbles(code);
      for (int p = 0; p < passes; p++) {
        u16x8 a = (u16x8)swizzle(load16(table + PASS_BYTES * p), low);
        u16x8 b = (u16x8)swizzle(load16(table + PASS_BYTES * p + 16), high);
        parts[p][g].raw += a + b;
        parts[p][g].odd += (a >> 8) + (b >> 8);
      }
    }
  }
  for (int p = 0; p < passes; p++)
    for (int g = 0; g < count; g++) flush(parts[p][g].raw, parts[p][g].odd, shifts[p], sums + g);
}

// Adds up `count` groups of codes that lie one after another.
INLINE void sum_groups(int count, const u8 *codes, const Tables *tables, u32 code_bytes, Group *sums) {
  u64 stride = (u64)code_bytes * GROUP;
  for (int g = 0; g < count; g++) sums[g] = (Group){0};
  for (u32 segment = 0, pass = 0, j = 0; j < code_bytes; segment++, pass++, j += SEGMENT) {
    u32 length = code_bytes - j < SEGMENT ? code_bytes - j : SEGMENT;
    const u8 *table = tables->bytes + PASS_BYTES * pass, *shifts = tables->shifts + pass;
    if (segment < tables->fine) {
      sum_segment(2, count, codes + GROUP * j, stride, table, length, shifts, sums);
      pass++;
    } else {
      sum_segment(1, count, codes + GROUP * j, stride, table, length, shifts, sums);
    }
  }
}

static u32 values_plain(const Scan *s, u32 at, int count, f32 limit, f32x4 values[AT_ONCE][4]) {
  Group sums[AT_ONCE];
  const u8 *codes = s->codes + (u64)at * s->code_bytes;
  u64 stride = (u64)s->code_bytes * GROUP;
  u32 reached = 0;
  int g = 0;
  for (; g + 2 <= count; g += 2) sum_groups(2, codes + (u64)g * stride, s->tables, s->code_bytes, sums + g);
  if (g < count) sum_groups(1, codes + (u64)g * stride, s->tables, s->code_bytes, sums + g);
  for (g = 0; g < count; g++) {
    score_group(s, s->f + at + GROUP * g, s->h + at + GROUP * g, sums + g, values[g]);
    reached |= reaches(values[g], limit) << g;
  }
  return reached;
}

// Chosen at import; scan_path changes it for tests.
static int path;
void scan_detect(void) { path = scan_best(); }
int scan_path_now(void) { return path; }

INLINE u32 values_of(int by, const Scan *s, u32 at, int count, f32 limit, f32x4 values[AT_ONCE][4]) {
#if defined(__x86_64__) && !defined(KERN_BASELINE)
  if (by == 2) return values_avx512(s, at, count, limit, values);
  if (by == 1) return values_avx2(s, at, count, limit, values);
#endif
  (void)by;
  return values_plain(s, at, count, limit, values);
}

static const f32 SCORE_MAX = 0x1p30f;
// -> the integers, clamped to +-2^30; NaN becomes -2^30
INLINE Group round_group(const f32x4 values[4]) {
  Group out;
  for (int k = 0; k < 4; k++) {
    f32x4 low = splat(-SCORE_MAX), high = splat(SCORE_MAX), v = select(values[k] > low, values[k], low);
    v = __builtin_elementwise_roundeven(select(v < high, v, high));
    out.lanes[k] = __builtin_convertvector(v, i32x4);
  }
  return out;
}

// mask: a bit for each row that may enter the pool; 0 for all.
static void scan_into_pool(const Scan *s, int by, const u8 *mask, Pool *pool) {
  f32x4 values[AT_ONCE][4];
  for (u32 at = 0; at < s->n; at += AT_ONCE * GROUP) {
    u32 groups = (s->n - at + GROUP - 1) / GROUP;
    // Below this no value rounds to score_min or more; NaN counts as -2^30 and is looked at.
    f32 limit = (f32)pool->score_min - 1 - __builtin_fabsf((f32)pool->score_min) * 0x1p-20f;
    if (pool->score_min <= -(1 << 30)) limit = -__builtin_inff();
    if (groups > AT_ONCE) groups = AT_ONCE;
    u64 allowed = ~(u64)0;
    if (mask) {
      allowed = 0;
      for (u32 i = 0; i < groups * (GROUP / 8); i++) allowed |= (u64)mask[at / 8 + i] << 8 * i;
      if (!allowed) continue;
    }
    u32 reached = values_of(by, s, at, (int)groups, limit, values);
    for (u32 g = 0, from = at; reached >> g; g++, from += GROUP) {
      u32 rows = (u32)(allowed >> GROUP * g) & 0xffff;
      if (!(reached >> g & 1) || !rows) continue;
      Group scores = round_group(values[g]);
      for (u32 i = 0; i < GROUP && from + i < s->n; i++) {
        i32 score = scores.rows[i % 4][i / 4];
        if (score >= pool->score_min && rows >> i & 1) pool_push(pool, score, s->rows[from + i], s->place, from + i);
      }
    }
  }
}

static void scan_into_list(const Scan *s, int by, i32_at *out) {
  f32x4 values[AT_ONCE][4];
  for (u32 at = 0; at < s->n; at += AT_ONCE * GROUP) {
    u32 groups = (s->n - at + GROUP - 1) / GROUP;
    int count = groups < AT_ONCE ? (int)groups : AT_ONCE;
    values_of(by, s, at, count, 0, values);
    for (u32 g = 0, from = at; g < (u32)count; g++, from += GROUP) {
      Group scores = round_group(values[g]);
      for (u32 i = 0; i < GROUP && from + i < s->n; i++) out[from + i] = scores.rows[i % 4][i / 4];
    }
  }
}

// Checks the tables of a query.
static void take_tables(Call *c, Scan *s, Span tables) {
  if (c->failed) return;
  s->tables = (const Tables *)tables.at;
  s->code_bytes = s->tables->code_bytes;
  if (s->code_bytes < 1 || s->code_bytes > CODE_BYTES_MAX || s->tables->fine > FINE_MAX ||
      s->tables->fine > segments_of(s->code_bytes) || tables.size < tables_size(s->code_bytes, s->tables->fine)) {
    FAIL(c, "tables has %llu bytes for codes of %llu: fill it with lrsq_tables", (unsigned long long)tables.size,
         (unsigned long long)s->code_bytes);
    return;
  }
  for (u32 g = 0; g < PASSES_MAX; g++)
    if (s->tables->shifts[g] > SHIFT_MAX) FAIL(c, "tables has a shift above %d: fill it with lrsq_tables", SHIFT_MAX);
  s->unit = s->tables->unit;
  s->bias = s->tables->bias;
  s->scale = s->tables->scale;
}

// A part of a block: where it begins and its bytes.
typedef struct {
  const char *what;
  u64 at, size;
} Plane;

static void check_planes(Call *c, const Plane *planes, int count, Span data) {
  for (int i = 0; i < count; i++)
    if (planes[i].at + planes[i].size > data.size)
      FAIL(c, "%s at %llu of %llu bytes end beyond data of %llu", planes[i].what, (unsigned long long)planes[i].at,
           (unsigned long long)planes[i].size, (unsigned long long)data.size);
}

static const i64 PLACE_END = (i64)1 << 48;

// The arguments that lrsq_scan and lrsq_scores share, all but the last.
static void take_block(Call *c, Scan *s) {
  u64 ranges_at = (u64)call_int(c, 1, "ranges_at", 0, PLACE_END), codes_at = (u64)call_int(c, 2, "codes_at", 0, PLACE_END);
  u64 f_at = (u64)call_int(c, 3, "f_at", 0, PLACE_END), h_at = (u64)call_int(c, 4, "h_at", 0, PLACE_END);
  u64 rows_at = (u64)call_int(c, 5, "rows_at", 0, PLACE_END), n = (u64)call_int(c, 6, "n", 0, 0x7fffffe0);
  u64 padded = (n + GROUP - 1) / GROUP * GROUP;
  s->n = (u32)n;
  s->base = call_f32(c, 7, "base");
  s->place = (u32)call_int(c, 8, "place", 0, UINT32_MAX);
  Span data = call_in(c, 0, "data", 0), tables = call_in(c, 9, "tables", TABLES_AT);
  take_tables(c, s, tables);
  if (c->failed) return;
  const Plane planes[] = {{"ranges", ranges_at, 16},
                          {"codes", codes_at, padded * s->code_bytes},
                          {"f", f_at, padded},
                          {"h", h_at, padded},
                          {"rows", rows_at, n * 4}};
  check_planes(c, planes, 5, data);
  if (c->failed) return;
  const f32_at *ranges = (const f32_at *)(data.at + ranges_at);
  for (int i = 0; i < 4; i++)
    if (ranges[i] - ranges[i] != 0) FAIL(c, "number %d of ranges (f_lo, f_step, h_lo, h_step) is not finite", i);
  s->f_lo = ranges[0];
  s->f_step = ranges[1];
  s->h_lo = ranges[2];
  s->h_step = ranges[3];
  s->codes = data.at + codes_at;
  s->f = data.at + f_at;
  s->h = data.at + h_at;
  s->rows = (const u32_at *)(data.at + rows_at);
}

KERNEL(lrsq_scan) {
  (void)module;
  Call call, *c = &call;
  call_open(c, "lrsq_scan", argv, argc, 11, 12);
  Scan scan;
  int by = path;  // no scan changes its path half way
  Pool pool;
  take_block(c, &scan);
  Span buffer = call_out(c, 10, "pool", 0), mask = {0, 0};
  if (argc == 12) mask = call_in(c, 11, "mask", c->failed ? 0 : (u64)(scan.n + GROUP - 1) / GROUP * (GROUP / 8));
  if (call_ready(c)) pool_open(&pool, c, buffer);
  if (!c->failed) {
    WITHOUT_GIL(scan_into_pool(&scan, by, mask.at, &pool));
    pool_close(&pool);
  }
  return call_close(c, scan.n);
}

// Rows of many blocks: by the paths only the sums of tables, as the score of a row with factor 1 and nothing added, whose every
// operation is exact; then each row's own factors, in the order of score_group.
static void scan_mixed(const Scan *s, int by, const u8 *homes, const f32_at *ranges, const f32_at *bases, const u8 *mask,
                       Pool *pool) {
  f32x4 values[AT_ONCE][4];
  Scan plain = *s;
  plain.base = plain.h_lo = plain.h_step = plain.f_step = 0;
  plain.f_lo = plain.scale = 1;
  for (u32 at = 0; at < s->n; at += AT_ONCE * GROUP) {
    u32 groups = (s->n - at + GROUP - 1) / GROUP;
    if (groups > AT_ONCE) groups = AT_ONCE;
    values_of(by, &plain, at, (int)groups, 0, values);
    for (u32 i = at; i < s->n && i < at + groups * GROUP; i++) {
      if (mask && !(mask[i / 8] >> i % 8 & 1)) continue;
      u32 lane = (i - at) % GROUP, home = homes[i];
      const f32_at *r = ranges + 4 * home;
      f32 dot = values[(i - at) / GROUP][lane % 4][lane / 4];
      f32 factor = r[0] + r[1] * (f32)s->f[i], addend = r[2] + r[3] * (f32)s->h[i];
      f32x4 value = splat((bases[home] + (addend + factor * dot)) * s->scale), four[4] = {value, value, value, value};
      i32 score = round_group(four).rows[0][0];
      if (score >= pool->score_min) pool_push(pool, score, s->rows[i], s->place, i);
    }
  }
}

KERNEL(lrsq_scan_mixed) {
  (void)module;
  Call call, *c = &call;
  call_open(c, "lrsq_scan_mixed", argv, argc, 13, 14);
  Scan s = {0};
  int by = path;
  u64 ranges_at = (u64)call_int(c, 1, "ranges_at", 0, PLACE_END), homes_at = (u64)call_int(c, 2, "homes_at", 0, PLACE_END);
  u64 codes_at = (u64)call_int(c, 3, "codes_at", 0, PLACE_END), f_at = (u64)call_int(c, 4, "f_at", 0, PLACE_END);
  u64 h_at = (u64)call_int(c, 5, "h_at", 0, PLACE_END), rows_at = (u64)call_int(c, 6, "rows_at", 0, PLACE_END);
  u64 n = (u64)call_int(c, 7, "n", 0, 0x7fffffe0), padded = (n + GROUP - 1) / GROUP * GROUP;
  u64 blocks = (u64)call_int(c, 8, "blocks", 1, 256);
  s.n = (u32)n;
  s.place = (u32)call_int(c, 10, "place", 0, UINT32_MAX);
  Span data = call_in(c, 0, "data", 0), bases = call_in(c, 9, "bases", blocks * 4);
  Span tables = call_in(c, 11, "tables", TABLES_AT), buffer = call_out(c, 12, "pool", 0), mask = {0, 0};
  if (argc == 14) mask = call_in(c, 13, "mask", padded / 8);
  take_tables(c, &s, tables);
  if (!c->failed) {
    const Plane planes[] = {{"ranges", ranges_at, blocks * 16}, {"homes", homes_at, n},
                            {"codes", codes_at, padded * s.code_bytes}, {"f", f_at, padded},
                            {"h", h_at, padded}, {"rows", rows_at, n * 4}};
    check_planes(c, planes, 6, data);
  }
  Pool pool;
  if (!c->failed) {
    const f32_at *ranges = (const f32_at *)(data.at + ranges_at), *base = (const f32_at *)bases.at;
    for (u64 i = 0; i < 4 * blocks; i++)
      if (ranges[i] - ranges[i] != 0) FAIL(c, "number %llu of ranges is not finite", (unsigned long long)i);
    for (u64 i = 0; i < blocks; i++)
      if (base[i] - base[i] != 0) FAIL(c, "base %llu is not finite", (unsigned long long)i);
    for (u64 i = 0; i < n; i++)
      if (data.at[homes_at + i] >= blocks) FAIL(c, "row %llu is of block %d of %llu", (unsigned long long)i,
                                                data.at[homes_at + i], (unsigned long long)blocks);
  }
  if (call_ready(c)) pool_open(&pool, c, buffer);
  if (!c->failed) {
    s.codes = data.at + codes_at;
    s.f = data.at + f_at;
    s.h = data.at + h_at;
    s.rows = (const u32_at *)(data.at + rows_at);
    scan_mixed(&s, by, data.at + homes_at, (const f32_at *)(data.at + ranges_at), (const f32_at *)bases.at, mask.at, &pool);
    pool_close(&pool);
  }
  return call_close(c, n);
}

KERNEL(lrsq_scores) {
  OPEN(lrsq_scores, 11);
  Scan scan;
  int by = path;  // no scan changes its path half way
  take_block(c, &scan);
  i32_at *out = (i32_at *)call_out(c, 10, "out", c->failed ? 0 : (u64)scan.n * 4).at;
  if (call_ready(c)) WITHOUT_GIL(scan_into_list(&scan, by, out));
  return call_close(c, scan.n);
}

KERNEL(scan_path) {
  OPEN(scan_path, 1);
  int most = (int)call_int(c, 0, "most", 0, 255);
  if (call_ready(c)) path = scan_best() < most ? scan_best() : most;
  return call_close(c, (u64)path);
}
