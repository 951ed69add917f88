// lrsq tables of one query: 16 bytes for each nibble of a code, scaled by a power of two a segment. The first `fine`
// segments have 16-bit entries, added up in two passes over their codes: the low bytes, then the high bytes << 8.
#pragma once
#include "call.h"
#include "simd.h"

enum { CODE_BYTES_MAX = 7680, SEGMENT = 32, SEGMENTS_MAX = CODE_BYTES_MAX / SEGMENT, SHIFT_MAX = 8 };
enum { FINE_MAX = 16, PASSES_MAX = SEGMENTS_MAX + FINE_MAX, TABLES_AT = 32 + PASSES_MAX, PASS_BYTES = 32 * SEGMENT };
// A pass starts at bytes[PASS_BYTES pass]: the table of the low nibble of its first code byte, of the high nibble 16
// later, of the next code byte 32 later; SEGMENT counts code bytes.
typedef struct __attribute__((packed, aligned(1), may_alias)) {
  u32 code_bytes;
  f32 unit, bias, scale;
  u32 fine, unused[3];
  u8 shifts[PASSES_MAX], bytes[];
} Tables;
static inline u32 segments_of(u32 code_bytes) { return (code_bytes + SEGMENT - 1) / SEGMENT; }
static inline u32 segment_of(u32 pass, u32 fine) { return pass < 2 * fine ? pass / 2 : pass - fine; }
static inline u64 tables_size(u64 code_bytes, u64 fine) { return TABLES_AT + 32 * code_bytes + PASS_BYTES * fine; }
_Static_assert(sizeof(Tables) == TABLES_AT, "the layout that kern.pyi states");
