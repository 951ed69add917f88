// lrsq tables of one query: 16 bytes for each nibble of a code, scaled by a power of two a segment.
#pragma once
#include "call.h"
#include "simd.h"

enum { CODE_BYTES_MAX = 7680, SEGMENT = 32, SEGMENTS_MAX = CODE_BYTES_MAX / SEGMENT, SHIFT_MAX = 8, TABLES_AT = 256 };
// code byte j: the table of its low nibble at bytes[32 j], of its high nibble at bytes[32 j + 16]; SEGMENT counts code bytes
typedef struct __attribute__((packed, aligned(1), may_alias)) {
  u32 code_bytes;
  f32 unit, bias, scale;
  u8 shifts[SEGMENTS_MAX], bytes[];
} Tables;
_Static_assert(sizeof(Tables) == TABLES_AT, "the layout that kern.pyi states");
