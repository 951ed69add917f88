// A rotation as layers of 2 x 2 rotations of disjoint pairs of coordinates (a butterfly), in two multiplications a pair:
// each coordinate carries a scale of its own to the end, so that a pair needs no cosine ("fast" Givens rotations,
// Gentleman 1973). The plan of a rotation: f32 scale[dim], then a Turn a pair, layer after layer.
#include "call.h"
#include "simd.h"

enum { DIM_MAX = 4096, LAYERS_MAX = 200, TANGENT_ONE = 16384 };
typedef struct __attribute__((packed, may_alias)) {
  u16 first, second;
  f32 toward, back;
} Turn;

INLINE f64 square_root(f64 x) {
  typedef f64 f64x2 __attribute__((vector_size(16)));
  return __builtin_elementwise_sqrt((f64x2){x, x})[0];  // as a vector: an instruction everywhere, never libm's function
}

// One layer of `half` entries into turns; a coordinate's scale shrinks with every turn. Sets the error of a bad entry.
static void plan_layer(Call *c, u64 layer, u64 dim, const u16_at *partner, const i16_at *tangent, f64 *scale,
                       Turn *turn) {
  u8 taken[DIM_MAX];
  for (u64 i = 0; i < dim; i++) taken[i] = 0;
  u64 alone = dim % 2, at = 0;
  for (u64 i = 0; i < dim; i++) {
    if (taken[i]) continue;
    u64 j = partner[at];
    i32 t = tangent[at++];
    if (j == i && alone && t == 0) {
      alone = 0;
      continue;
    }
    if (j <= i || j >= dim || taken[j] || t < -TANGENT_ONE || t > TANGENT_ONE) {
      FAIL(c, "layer %llu turns %llu with %llu by %d of 16384: not a pair of %llu", (unsigned long long)layer,
           (unsigned long long)i, (unsigned long long)j, t, (unsigned long long)dim);
      return;
    }
    taken[j] = 1;
    f64 tan = (f64)t / TANGENT_ONE, cosine = 1 / square_root(1 + tan * tan), ratio = scale[j] / scale[i];
    *turn++ = (Turn){(u16)i, (u16)j, (f32)(tan * ratio), (f32)(tan / ratio)};
    scale[i] *= cosine;
    scale[j] *= cosine;
  }
}

// partners u16[layers][ceil(dim/2)], tangents i16[layers][ceil(dim/2)] -> plan
KERNEL(butterfly_plan) {
  OPEN(butterfly_plan, 5);
  u64 layers = (u64)call_int(c, 2, "layers", 1, LAYERS_MAX), dim = (u64)call_int(c, 3, "dim", 1, DIM_MAX);
  u64 half = (dim + 1) / 2, pairs = dim / 2;
  const u16_at *partner = (const u16_at *)call_in(c, 0, "partners", layers * half * 2).at;
  const i16_at *tangent = (const i16_at *)call_in(c, 1, "tangents", layers * half * 2).at;
  u8 *plan = call_out(c, 4, "plan", dim * 4 + layers * pairs * sizeof(Turn)).at;
  if (call_ready(c)) {
    f64 scale[DIM_MAX];
    for (u64 i = 0; i < dim; i++) scale[i] = 1;
    for (u64 layer = 0; layer < layers && !c->failed; layer++)
      plan_layer(c, layer, dim, partner + layer * half, tangent + layer * half, scale,
                 (Turn *)(plan + dim * 4) + layer * pairs);
    for (u64 i = 0; i < dim; i++) ((f32_at *)plan)[i] = (f32)scale[i];
  }
  return call_close(c, layers * pairs);
}

// vector f32[dim] turned by a plan -> out f32[n], its coordinates axes u16[n]
KERNEL(butterfly_turn) {
  OPEN(butterfly_turn, 7);
  u64 layers = (u64)call_int(c, 2, "layers", 1, LAYERS_MAX), dim = (u64)call_int(c, 3, "dim", 1, DIM_MAX);
  u64 n = (u64)call_int(c, 5, "n", 0, DIM_MAX), turns = layers * (dim / 2);
  const f32_at *vector = (const f32_at *)call_in(c, 0, "vector", dim * 4).at;
  const u8 *plan = call_in(c, 1, "plan", dim * 4 + turns * sizeof(Turn)).at;
  const u16_at *axis = (const u16_at *)call_in(c, 4, "axes", n * 2).at;
  f32_at *out = (f32_at *)call_out(c, 6, "out", n * 4).at;
  if (call_ready(c)) {
    f32 x[DIM_MAX];
    for (u64 i = 0; i < dim; i++) x[i] = vector[i];
    const Turn *turn = (const Turn *)(plan + dim * 4), *end = turn + turns;
    for (; turn < end && turn->first < dim && turn->second < dim; turn++) {
      f32 a = x[turn->first], b = x[turn->second];
      x[turn->first] = a + turn->toward * b;
      x[turn->second] = b - turn->back * a;
    }
    if (turn < end) FAIL(c, "plan is not of %llu dims: fill it with butterfly_plan", (unsigned long long)dim);
    for (u64 i = 0; i < n && !c->failed; i++) {
      if (axis[i] >= dim) FAIL(c, "axis %d of %llu dims", (int)axis[i], (unsigned long long)dim);
      else out[i] = x[axis[i]] * ((const f32_at *)plan)[axis[i]];
    }
  }
  return call_close(c, n);
}
