// Builds the nibble tables of a query: float sums of levels, then entries of 8 or 16 bits in steps of one unit.
#include "lrsq.h"

typedef struct __attribute__((packed, aligned(1), may_alias)) {
  u16 axis;
  u8 shift, width;
  u32 level_at;
} Field;

// sums[v]: what nibble value v adds to the dot product, its fields in order
static void nibble_sums(const Field *field, const Field *end, const f32_at *ys, const f32_at *levels, f32 sums[16]) {
  for (int v = 0; v < 16; v++) sums[v] = 0;
  for (; field < end; field++) {
    f32 y = ys[field->axis];
    u32 mask = (1u << field->width) - 1;
    for (u32 v = 0; v < 16; v++) sums[v] = sums[v] + y * levels[field->level_at + (v >> field->shift & mask)];
  }
}

static f32 least(const f32 sums[16]) {
  f32 least = sums[0];
  for (int v = 1; v < 16; v++) least = sums[v] < least ? sums[v] : least;
  return least;
}
static f32 largest(const f32 sums[16]) {
  f32 largest = sums[0];
  for (int v = 1; v < 16; v++) largest = sums[v] > largest ? sums[v] : largest;
  return largest;
}

static u64 take_fine(Call *c, int i, u64 code_bytes) {
  u64 segments = (code_bytes + SEGMENT - 1) / SEGMENT;
  return (u64)call_int(c, i, "fine", 0, (i64)(segments < FINE_MAX ? segments : FINE_MAX));
}

KERNEL(lrsq_tables_size) {
  OPEN(lrsq_tables_size, 2);
  u64 code_bytes = (u64)call_int(c, 0, "code_bytes", 1, CODE_BYTES_MAX), fine = take_fine(c, 1, code_bytes);
  return call_close(c, tables_size(code_bytes, fine));
}

static void check_fields(Call *c, const Field *fields, u64 count, const u32_at *starts, u64 nibbles, u64 axes,
                         u64 levels) {
  for (u64 i = 0; i < count && !c->failed; i++) {
    Field f = fields[i];
    if (f.axis >= axes || f.width < 1 || f.width > 4 || f.shift + f.width > 4 ||
        f.level_at + (1ull << f.width) > levels)
      FAIL(c, "field %llu (axis %d, shift %d, width %d, level_at %llu) is out of range: %llu axes, %llu levels",
           (unsigned long long)i, f.axis, f.shift, f.width, (unsigned long long)f.level_at, (unsigned long long)axes,
           (unsigned long long)levels);
  }
  for (u64 i = 0; i < nibbles && !c->failed; i++)
    if (starts[i] > starts[i + 1] || starts[i + 1] > count)
      FAIL(c, "starts of nibble %llu are %llu to %llu, want ascending and at most %llu fields", (unsigned long long)i,
           (unsigned long long)starts[i], (unsigned long long)starts[i + 1], (unsigned long long)count);
}

KERNEL(lrsq_tables) {
  OPEN(lrsq_tables, 7);
  f32 scale = call_f32(c, 4, "scale");
  Span ys_span = call_in(c, 0, "ys", 0), fields_span = call_in(c, 1, "fields", 0),
       starts_span = call_in(c, 2, "starts", 12);
  Span levels_span = call_in(c, 3, "levels", 0);
  u64 axes = ys_span.size / 4, count = fields_span.size / 8, nibbles = starts_span.size / 4 - 1,
      code_bytes = nibbles / 2;
  if (!c->failed && (nibbles % 2 || code_bytes > CODE_BYTES_MAX || starts_span.size % 4))
    FAIL(c, "starts has %llu bytes, want 4 (nibbles + 1), nibbles even and at most %d",
         (unsigned long long)starts_span.size, 2 * CODE_BYTES_MAX);
  call_exact(c, "ys", ys_span, axes * 4);
  call_exact(c, "fields", fields_span, count * 8);
  u64 fine = c->failed ? 0 : take_fine(c, 5, code_bytes);
  Tables *tables = (Tables *)call_out(c, 6, "tables", tables_size(code_bytes, fine)).at;
  const Field *fields = (const Field *)fields_span.at;
  const u32_at *starts = (const u32_at *)starts_span.at;
  const f32_at *ys = (const f32_at *)ys_span.at, *levels = (const f32_at *)levels_span.at;
  if (call_ready(c)) check_fields(c, fields, count, starts, nibbles, axes, levels_span.size / 4);
  for (u64 i = 0; i < axes && !c->failed; i++)
    if (ys[i] - ys[i] != 0) FAIL(c, "ys[%llu] is not finite", (unsigned long long)i);
  if (c->failed) return call_close(c, 0);

  f32 sums[16], ranges[SEGMENTS_MAX], top = 0;
  f64 bias = 0;
  u64 segments = (code_bytes + SEGMENT - 1) / SEGMENT;
  for (u64 g = 0; g < segments; g++) ranges[g] = 0;
  for (u64 n = 0; n < nibbles; n++) {
    nibble_sums(fields + starts[n], fields + starts[n + 1], ys, levels, sums);
    f32 low = least(sums), range = largest(sums) - low, check = 0;
    for (int v = 0; v < 16; v++) check += sums[v] - sums[v];
    if (check != 0 || range - range != 0) {
      FAIL(c, "the sums of nibble %llu are not finite: ys or levels are too large", (unsigned long long)n);
      return call_close(c, 0);
    }
    bias += low;
    f32 *segment = &ranges[n / (2 * SEGMENT)];
    *segment = range > *segment ? range : *segment;
    top = range > top ? range : top;
  }
  // A range too small for a unit is no range: every entry is 0 then.
  f32 unit = top * (1.0f / 65280.0f);
  if (unit == 0) unit = 1;
  if (!(bias > -0x1.fffffep127 && bias < 0x1.fffffep127)) {
    FAIL(c, "the sum of all nibbles is not finite: ys or levels are too large");
    return call_close(c, 0);
  }
  tables->code_bytes = (u32)code_bytes;
  tables->unit = unit;
  tables->bias = (f32)bias;
  tables->scale = scale;
  tables->fine = (u32)fine;
  for (int i = 0; i < 3; i++) tables->unused[i] = 0;
  for (u32 pass = 0; pass < PASSES_MAX; pass++) {
    u32 g = segment_of(pass, (u32)fine), shift = 0;
    while (g < segments && shift < SHIFT_MAX && ranges[g] > 255.0f * (unit * (f32)(1u << shift))) shift++;
    tables->shifts[pass] = (u8)(g < fine ? pass % 2 * 8 : shift);
  }
  for (u64 n = 0; n < nibbles; n++) {
    nibble_sums(fields + starts[n], fields + starts[n + 1], ys, levels, sums);
    u64 g = n / (2 * SEGMENT), pass = g < fine ? 2 * g : g + fine, at = PASS_BYTES * pass + 16 * (n % (2 * SEGMENT));
    f32 low = least(sums), step = unit * (f32)(1u << tables->shifts[pass]), top = g < fine ? 65535.0f : 255.0f;
    for (u64 v = 0; v < 16; v++) {
      f32 level = (sums[v] - low) / step + 0.5f;  // >= 0.5, so the cast is floor
      u32 entry = level < top ? (u32)level : (u32)top;
      tables->bytes[at + v] = (u8)entry;
      if (g < fine) tables->bytes[at + PASS_BYTES + v] = (u8)(entry >> 8);
    }
  }
  return call_close(c, code_bytes);
}
