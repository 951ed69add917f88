// Argument checks: every number is bounded and every buffer is long enough before a kernel touches it.
#include "call.h"

void call_open(Call *c, const char *name, PyObject *const *argv, Py_ssize_t argc, int least, int most) {
  c->name = name;
  c->argv = argv;
  c->argc = argc;
  c->failed = c->held = 0;
  c->writable = 0;
  if (argc >= least && argc <= most) return;
  PyErr_Format(PyExc_TypeError, "%s: got %zd arguments, takes %d", name, argc, most);
  c->failed = 1;
}

i64 call_int(Call *c, int at, const char *what, i64 least, i64 most) {
  if (c->failed) return 0;
  i64 value = PyLong_AsLongLong(c->argv[at]);
  if (value == -1 && PyErr_Occurred()) {
    if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
      PyErr_Clear();
      FAIL(c, "%s has more than 64 bits, want %lld to %lld", what, (long long)least, (long long)most);
    }
    c->failed = 1;
    return 0;
  }
  if (value >= least && value <= most) return value;
  FAIL(c, "%s is %lld, want %lld to %lld", what, (long long)value, (long long)least, (long long)most);
  return 0;
}

f32 call_f32(Call *c, int at, const char *what) {
  if (c->failed) return 0;
  f64 value = PyFloat_AsDouble(c->argv[at]);
  if (value == -1 && PyErr_Occurred()) {
    c->failed = 1;
    return 0;
  }
  // Beyond the largest f32 the cast is undefined in C; the bound is the last f64 that rounds to a finite f32,
  // exclusive.
  if (value > -0x1.ffffffp127 && value < 0x1.ffffffp127) return (f32)value;
  FAIL(c, "%s is not a finite float32", what);
  return 0;
}

static Span take(Call *c, int at, const char *what, u64 size_min, int writable) {
  Span none = {0, 0};
  if (c->failed) return none;
  Py_buffer *b = &c->buffers[c->held];
  if (PyObject_GetBuffer(c->argv[at], b, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE)) {
    c->failed = 1;
    return none;
  }
  c->names[c->held] = what;
  c->writable |= (u32)writable << c->held;
  c->held++;
  if ((u64)b->len < size_min) {
    FAIL(c, "%s has %zd bytes, needs %llu", what, b->len, (unsigned long long)size_min);
    return none;
  }
  return (Span){b->buf, (u64)b->len};
}

Span call_in(Call *c, int at, const char *what, u64 size_min) { return take(c, at, what, size_min, 0); }
Span call_out(Call *c, int at, const char *what, u64 size_min) { return take(c, at, what, size_min, 1); }

void call_exact(Call *c, const char *what, Span span, u64 size) {
  if (!c->failed && span.size != size)
    FAIL(c, "%s has %llu bytes, wants exactly %llu", what, (unsigned long long)span.size, (unsigned long long)size);
}

int call_ready(Call *c) {
  // Inputs are checked once and then trusted, so no output may lie over an input or another output.
  for (int i = 0; i < c->held && !c->failed; i++)
    for (int j = 0; j < c->held; j++) {
      const Py_buffer *a = &c->buffers[i], *b = &c->buffers[j];
      if (i == j || !(c->writable >> i & 1)) continue;
      const u8 *p = a->buf, *q = b->buf;
      if (p < q + b->len && q < p + a->len) {
        FAIL(c, "%s overlaps %s, give them separate buffers", c->names[i], c->names[j]);
        break;
      }
    }
  return !c->failed;
}

PyObject *call_close(Call *c, u64 result) {
  while (c->held) PyBuffer_Release(&c->buffers[--c->held]);
  return c->failed ? 0 : PyLong_FromUnsignedLongLong(result);
}
