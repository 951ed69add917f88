// The largest numbers of a row so far, kept while it is gone through piece by piece.
#pragma once
#include "lanes.h"

enum { KEPT_MAX = 1024 };

// The `most` largest, falling, of equal ones the first before the others; NaN where no number has been yet. The vector
// before the first begins with nothing, and ends with infinity.
typedef struct {
  f32 value[LANES + KEPT_MAX];
  u32 at[LANES + KEPT_MAX];
  u32 most;
} Kept;

void kept_open(Kept *, u32 most);
void kept_load(Kept *, const f32_at *value, const u32_at *at);  // as kept_store has left them
void kept_store(const Kept *, f32_at *value, u32_at *at);
// Offers values[i] + bias[i], i < width, as numbers first + i. All before `first` have been offered.
void kept_offer(Kept *, int path, const f32_at *values, const f32_at *bias, u64 width, u64 first);
