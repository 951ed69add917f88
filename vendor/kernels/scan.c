// Scans a block of lrsq codes: nibble tables, 16 interleaved rows at a time, into a pool or a list of scores.
#include "lrsq.h"
#include "pool.h"

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

static void sums_plain(int count, const u8 *codes, const Tables *tables, u32 code_bytes, Group *sums) {
  for (; count >= 2; count -= 2, sums += 2, codes += 2 * GROUP * (u64)code_bytes)
    sum_groups(2, codes, tables, code_bytes, sums);
  if (count) sum_groups(1, codes, tables, code_bytes, sums);
}

#if defined(__x86_64__) && !defined(KERN_BASELINE)
#define AVX2 __attribute__((target("avx2")))
typedef u8 u8x32 __attribute__((vector_size(32)));
typedef u16 u16x16 __attribute__((vector_size(32)));

static inline AVX2 __attribute__((always_inline)) u8x32 load32(const u8 *p) {
  return (u8x32)_mm256_loadu_si256((const __m256i_u *)p);
}

// As sum_groups, two code bytes at once: byte j in the lower half of a vector, byte j + 1 in the upper.
static inline AVX2 __attribute__((always_inline)) void sum_groups_avx2(int count, const u8 *codes, const Tables *tables,
                                                                       u32 code_bytes, Group *sums) {
  u64 stride = (u64)code_bytes * GROUP;
  for (int g = 0; g < count; g++) sums[g] = (Group){0};
  u32 fine = tables->fine, passes = segments_of(code_bytes) + fine;
  for (u32 pass = 0; pass < passes; pass++) {
    u32 j = SEGMENT * segment_of(pass, fine), end = code_bytes - j < SEGMENT ? code_bytes : j + SEGMENT;
    const u8 *table = tables->bytes + PASS_BYTES * pass;
    u16x16 raw[AT_ONCE], odd[AT_ONCE];
    for (int g = 0; g < count; g++) raw[g] = odd[g] = (u16x16){0};
    for (; j + 2 <= end; j += 2, table += 64) {
      __m256i first = (__m256i)load32(table), second = (__m256i)load32(table + 32);
      __m256i low = _mm256_permute2x128_si256(first, second, 0x20),
              high = _mm256_permute2x128_si256(first, second, 0x31);
      for (int g = 0; g < count; g++) {
        u8x32 code = load32(codes + (u64)g * stride + GROUP * j);
        u16x16 a = (u16x16)_mm256_shuffle_epi8(low, (__m256i)(code & 15));
        u16x16 b = (u16x16)_mm256_shuffle_epi8(high, (__m256i)(code >> 4));
        raw[g] += a + b;
        odd[g] += (a >> 8) + (b >> 8);
      }
    }
    for (int g = 0; g < count; g++) {
      u16x8 raw16 =
          (u16x8)_mm256_castsi256_si128((__m256i)raw[g]) + (u16x8)_mm256_extracti128_si256((__m256i)raw[g], 1);
      u16x8 odd16 =
          (u16x8)_mm256_castsi256_si128((__m256i)odd[g]) + (u16x8)_mm256_extracti128_si256((__m256i)odd[g], 1);
      if (j < end) {
        u8x16 code = load16(codes + (u64)g * stride + GROUP * j);
        u16x8 a = (u16x8)swizzle(load16(table), code & 15);
        u16x8 b = (u16x8)swizzle(load16(table + 16), high_nibbles(code));
        raw16 += a + b;
        odd16 += (a >> 8) + (b >> 8);
      }
      flush(raw16, odd16, tables->shifts[pass], sums + g);
    }
  }
}

static AVX2 void sums_avx2(int count, const u8 *codes, const Tables *tables, u32 code_bytes, Group *sums) {
  if (count == AT_ONCE) {
    sum_groups_avx2(AT_ONCE, codes, tables, code_bytes, sums);
    return;
  }
  for (; count; count--, sums++, codes += GROUP * (u64)code_bytes) sum_groups_avx2(1, codes, tables, code_bytes, sums);
}

// The processor has AVX2 and the system saves its registers. Asked once, at import: cpuid traps in virtual machines.
static int avx2;
void scan_detect(void) {
  u32 a = 1, b, ecx = 0, d, xcr0;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(ecx), "=d"(d));
  if ((ecx >> 27 & 3) != 3) return;  // OSXSAVE, AVX
  __asm__("xgetbv" : "=a"(xcr0), "=d"(d) : "c"(0));
  a = 7;
  ecx = 0;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(ecx), "=d"(d));
  avx2 = (xcr0 & 6) == 6 && (b >> 5 & 1);
}
#define SUM_GROUPS(...) (avx2 ? sums_avx2(__VA_ARGS__) : sums_plain(__VA_ARGS__))
#else
void scan_detect(void) {}
#define SUM_GROUPS(...) sums_plain(__VA_ARGS__)
#endif

typedef struct {
  const Tables *tables;
  const u8 *codes, *f, *h;
  const u32_at *rows;
  u32 n, code_bytes, place;
  f32 unit, bias, scale, base, f_lo, f_step, h_lo, h_step;
} Scan;
static const f32 SCORE_MAX = 0x1p30f;

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

static void scan_into_pool(const Scan *s, Pool *pool) {
  Group sums[AT_ONCE];
  f32x4 values[4];
  for (u32 at = 0; at < s->n;) {
    u32 groups = (s->n - at + GROUP - 1) / GROUP;
    int count = groups < AT_ONCE ? (int)groups : AT_ONCE;
    SUM_GROUPS(count, s->codes + (u64)at * s->code_bytes, s->tables, s->code_bytes, sums);
    for (int g = 0; g < count; g++, at += GROUP) {
      score_group(s, s->f + at, s->h + at, sums + g, values);
      // Below this no value rounds to score_min or more; NaN counts as -2^30 and is looked at.
      f32 limit = (f32)pool->score_min - 1 - __builtin_fabsf((f32)pool->score_min) * 0x1p-20f;
      if (pool->score_min <= -(1 << 30)) limit = -__builtin_inff();
      i32x4 below = (values[0] < limit) & (values[1] < limit) & (values[2] < limit) & (values[3] < limit);
      if (!any_lane(~below)) continue;
      Group scores = round_group(values);
      for (u32 i = 0; i < GROUP && at + i < s->n; i++) {
        i32 score = scores.rows[i % 4][i / 4];
        if (score >= pool->score_min) pool_push(pool, score, s->rows[at + i], s->place, at + i);
      }
    }
  }
}

static void scan_into_list(const Scan *s, i32_at *out) {
  Group sums[AT_ONCE];
  f32x4 values[4];
  for (u32 at = 0; at < s->n;) {
    u32 groups = (s->n - at + GROUP - 1) / GROUP;
    int count = groups < AT_ONCE ? (int)groups : AT_ONCE;
    SUM_GROUPS(count, s->codes + (u64)at * s->code_bytes, s->tables, s->code_bytes, sums);
    for (int g = 0; g < count; g++, at += GROUP) {
      score_group(s, s->f + at, s->h + at, sums + g, values);
      Group scores = round_group(values);
      for (u32 i = 0; i < GROUP && at + i < s->n; i++) out[at + i] = scores.rows[i % 4][i / 4];
    }
  }
}

// The arguments that lrsq_scan and lrsq_scores share, all but the last.
static void take_block(Call *c, Scan *s) {
  const i64 end = (i64)1 << 48;
  u64 ranges_at = (u64)call_int(c, 1, "ranges_at", 0, end), codes_at = (u64)call_int(c, 2, "codes_at", 0, end);
  u64 f_at = (u64)call_int(c, 3, "f_at", 0, end), h_at = (u64)call_int(c, 4, "h_at", 0, end);
  u64 rows_at = (u64)call_int(c, 5, "rows_at", 0, end), n = (u64)call_int(c, 6, "n", 0, 0x7fffffe0);
  u64 padded = (n + GROUP - 1) / GROUP * GROUP;
  s->n = (u32)n;
  s->base = call_f32(c, 7, "base");
  s->place = (u32)call_int(c, 8, "place", 0, UINT32_MAX);
  Span data = call_in(c, 0, "data", 0), tables = call_in(c, 9, "tables", TABLES_AT);
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
  const struct {
    const char *what;
    u64 at, size;
  } planes[] = {{"ranges", ranges_at, 16},
                {"codes", codes_at, padded * s->code_bytes},
                {"f", f_at, padded},
                {"h", h_at, padded},
                {"rows", rows_at, n * 4}};
  for (int i = 0; i < 5; i++)
    if (planes[i].at + planes[i].size > data.size)
      FAIL(c, "%s at %llu of %llu bytes end beyond data of %llu", planes[i].what, (unsigned long long)planes[i].at,
           (unsigned long long)planes[i].size, (unsigned long long)data.size);
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

// Other Python threads run meanwhile; in Wasm there are none.
#if defined(__wasm__)
#define WITHOUT_GIL(work) work
#else
#define WITHOUT_GIL(work)                        \
  do {                                           \
    PyThreadState *thread = PyEval_SaveThread(); \
    work;                                        \
    PyEval_RestoreThread(thread);                \
  } while (0)
#endif

KERNEL(lrsq_scan) {
  OPEN(lrsq_scan, 11);
  Scan scan;
  Pool pool;
  take_block(c, &scan);
  Span buffer = call_out(c, 10, "pool", 0);
  if (call_ready(c)) pool_open(&pool, c, buffer);
  if (!c->failed) {
    WITHOUT_GIL(scan_into_pool(&scan, &pool));
    pool_close(&pool);
  }
  return call_close(c, scan.n);
}

KERNEL(lrsq_scores) {
  OPEN(lrsq_scores, 11);
  Scan scan;
  take_block(c, &scan);
  i32_at *out = (i32_at *)call_out(c, 10, "out", c->failed ? 0 : (u64)scan.n * 4).at;
  if (call_ready(c)) WITHOUT_GIL(scan_into_list(&scan, out));
  return call_close(c, scan.n);
}
