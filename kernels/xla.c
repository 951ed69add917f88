// matmul as XLA calls it, for training on the CPU: XLA's own products depend on the processor's caches and threads.
// The part of XLA's stable binary interface that this takes (xla/ffi/api/c_api.h, version 0.3) is written out. For builders.
#include "call.h"
#include "matmul.h"
#include "scan.h"

enum { VERSION_MAJOR = 0, VERSION_MINOR = 3, ASKS_METADATA = 1, INVALID_ARGUMENT = 3, TYPE_U8 = 6, TYPE_F32 = 11 };

typedef struct Extension {
  size_t size;
  int type;
  struct Extension *next;
} Extension;
typedef struct {
  size_t size;
  Extension *extension;
  int major, minor;
} Version;
typedef struct {
  Extension base;
  struct {
    size_t size;
    Version version;
    u32 traits;
    i64 state_type;
  } *metadata;
} AsksMetadata;
typedef struct Failure Failure;
typedef struct {
  size_t size;
  Extension *extension;
  const char *message;
  int code;
} Reason;
typedef struct {
  size_t size;
  Extension *extension;
  Version version;
  const void *internal;
  Failure *(*fail)(Reason *);
} Api;
typedef struct {
  size_t size;
  Extension *extension;
  int type;
  void *at;
  i64 rank, *shape;
} Array;
typedef struct {
  size_t size;
  Extension *extension;
  i64 count;
  int *kinds;
  Array **arrays;
} Arrays;
typedef struct {
  size_t size;
  Extension *extension;
  const Api *api;
  void *context;
  int stage;
  Arrays in, out;
} Frame;

static int is_array(const Array *a, int type, int rank) { return a->type == type && a->rank == rank; }

// In: a f32[n][depth], b f32[m][depth]. Out: f32[n][m] and, as scratch, u8[matmul_size(m, depth)].
static Failure *multiply_for_xla(Frame *frame) {
  Extension *asked = frame->extension;
  if (asked && asked->type == ASKS_METADATA) {
    AsksMetadata *asks = (AsksMetadata *)asked;
    asks->metadata->version = (Version){sizeof(Version), 0, VERSION_MAJOR, VERSION_MINOR};
    asks->metadata->traits = 0;
    asks->metadata->state_type = 0;
    return 0;
  }
  Array **in = frame->in.arrays, **out = frame->out.arrays;
  int fits = frame->in.count == 2 && frame->out.count == 2 && is_array(in[0], TYPE_F32, 2) &&
             is_array(in[1], TYPE_F32, 2) && is_array(out[0], TYPE_F32, 2) && is_array(out[1], TYPE_U8, 1);
  if (fits) {
    Product p = {in[0]->at, in[1]->at, (u64)in[0]->shape[0], (u64)in[1]->shape[0], (u64)in[0]->shape[1], out[1]->at};
    fits = p.depth >= 1 && p.depth <= DEPTH_MAX && (u64)in[1]->shape[1] == p.depth && (u64)out[0]->shape[0] == p.n &&
           (u64)out[0]->shape[1] == p.m && (u64)out[1]->shape[0] >= scratch_of(p.m, p.depth);
    if (fits) multiply_into(&p, scan_path_now(), out[0]->at);
  }
  if (fits) return 0;
  Reason reason = {sizeof(Reason), 0, "vantage_matmul: arrays of other types or shapes than matmul takes", INVALID_ARGUMENT};
  return frame->api->fail(&reason);
}

KERNEL(matmul_for_xla) {
  OPEN(matmul_for_xla, 0);
  if (!call_ready(c)) return call_close(c, 0);
  return PyCapsule_New((void *)multiply_for_xla, "xla._CUSTOM_CALL_TARGET", 0);
}
