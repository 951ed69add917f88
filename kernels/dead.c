// Which rows of a block are dead, by a bitmap of all rows.
#include "call.h"
#include "simd.h"

KERNEL(dead_rows) {
  OPEN(dead_rows, 5);
  u64 at = (u64)call_int(c, 1, "rows_at", 0, INT32_MAX), n = (u64)call_int(c, 2, "n", 0, INT32_MAX);
  const u8 *data = call_in(c, 0, "data", at + 4 * n).at;
  Span dead = call_in(c, 3, "dead", 0);
  u64 size = (n + 15) / 16 * 2, found = 0;
  u8 *out = call_out(c, 4, "out", size).at;
  if (!call_ready(c)) return call_close(c, 0);
  const u32_at *rows = (const u32_at *)(data + at);
  for (u64 i = 0; i < size; i++) out[i] = 0;
  for (u64 i = 0; i < n; i++) {
    u32 row = rows[i], byte = row / 8;
    if (byte >= dead.size) continue;  // whoever reads the number says that there is no such row
    u8 is_dead = dead.at[byte] >> row % 8 & 1;
    out[i / 8] |= (u8)(is_dead << i % 8);
    found += is_dead;
  }
  return call_close(c, found);
}
