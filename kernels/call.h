// Checked arguments: a kernel opens a Call, takes its arguments from it, asks `call_ready`, works, and closes it.
// The first failure sets the Python error and sticks; until `call_ready` has said yes, nothing may be dereferenced.
#pragma once
#include "abi.h"

enum { CALL_BUFFERS = 8 };
typedef struct {
  const char *name;
  PyObject *const *argv;
  Py_ssize_t argc;
  int failed, held;
  u32 writable;  // bit i: buffers[i] is written by the kernel
  const char *names[CALL_BUFFERS];
  Py_buffer buffers[CALL_BUFFERS];
} Call;
typedef struct {
  u8 *at;
  u64 size;
} Span;

// Reports what is wrong as "function: what", once a call.
#define FAIL(call, format, ...)                                                                      \
  do {                                                                                               \
    if (!(call)->failed) PyErr_Format(PyExc_ValueError, "%s: " format, (call)->name, ##__VA_ARGS__); \
    (call)->failed = 1;                                                                              \
  } while (0)

void call_open(Call *, const char *name, PyObject *const *argv, Py_ssize_t argc, int least, int most);
i64 call_int(Call *, int at, const char *what, i64 least, i64 most);
f32 call_f32(Call *, int at, const char *what);                 // finite after rounding to f32
Span call_in(Call *, int at, const char *what, u64 size_min);   // C-contiguous bytes, at least size_min
Span call_out(Call *, int at, const char *what, u64 size_min);  // the same, writable
void call_exact(Call *, const char *what, Span, u64 size);      // a buffer whose length says how many
int call_ready(Call *);                                         // no failure, and no output overlaps anything
PyObject *call_close(Call *, u64 result);                       // releases; None is never returned

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

#define KERNELS(X)                                                                              \
  X(crc32c, "data, crc=0")                                                                      \
  X(hamming, "query, codes, n, width, out")                                                     \
  X(dot_f16, "query, rows, offset, stride, n, dim, out")                                        \
  X(dot_f32, "query, rows, offset, stride, n, dim, out")                                        \
  X(dot_u8, "query, rows, offset, stride, n, dim, out")                                         \
  X(dot_i8, "query, rows, offset, stride, n, dim, out")                                         \
  X(l2_f16, "query, rows, offset, stride, n, dim, out")                                         \
  X(l2_f32, "query, rows, offset, stride, n, dim, out")                                         \
  X(l2_u8, "query, rows, offset, stride, n, dim, out")                                          \
  X(matvec_i8, "query, rows, n, dim, out")                                                      \
  X(matvec_i4, "query, rows, n, dim, out")                                                      \
  X(block_logits, "dots, scales, weights, subs, alpha, out, scratch")                           \
  X(block_probabilities, "dots, scales, weights, subs, alpha, temperature, out, scratch")       \
  X(sum_counts, "table, weights, out")                                                          \
  X(tail_probabilities, "counts, base, sigma, wanted, out")                                     \
  X(plan_ranges, "p, nbytes, flags, price, ranges_max, out, scratch")                           \
  X(lrsq_tables_size, "code_bytes, fine")                                                       \
  X(lrsq_tables, "ys, fields, starts, levels, scale, fine, tables")                             \
  X(filter_rows_size, "n")                                                                      \
  X(filter_rows, "plane, n, columns, program, out, scratch")                                    \
  X(column_counts, "plane, n, columns, column, mask, out")                                      \
  X(dead_rows, "data, rows_at, n, dead, out")                                                   \
  X(ids_add, "ids, width, n, table")                                                            \
  X(ids_in, "ids, width, n, table, out")                                                        \
  X(lrsq_scan, "data, ranges_at, codes_at, f_at, h_at, rows_at, n, base, place, tables, pool, mask") \
  X(lrsq_scan_mixed, "data, ranges_at, homes_at, codes_at, f_at, h_at, rows_at, n, blocks, bases, place, tables, pool, mask") \
  X(lrsq_scores, "data, ranges_at, codes_at, f_at, h_at, rows_at, n, base, place, tables, out") \
  X(scan_path, "most")                                                                          \
  X(pool_size, "capacity")                                                                      \
  X(pool_reset, "pool, capacity")                                                               \
  X(pool_offer, "pool, scores, rows, place, mask")                                                    \
  X(pool_finish, "pool, out")                                                                   \
  X(score_bounds, "scores, norms, n, weight, slack, lower, upper")                              \
  X(butterfly_plan, "partners, tangents, layers, dim, plan")                                    \
  X(butterfly_turn, "vector, plan, layers, dim, axes, n, out")
// Of builders alone: they are no part of the Worker's module.
#define BUILDER_KERNELS(X)                                                                      \
  X(additive_encode, "vectors, words, n, width, parts, out")                                    \
  X(scalar_encode, "values, cuts, n, count, out")                                               \
  X(plan_queries, "p, nbytes, at, flags, price, ranges_max, lengths, counts, read, scratch")    \
  X(plan_queries_size, "blocks")                                                                \
  X(find_answered, "block, twin, read, n, copies, blocks, most, out")                           \
  X(count_right, "block, twin, read, n, copies, blocks, most, rank, better, depth, out")         \
  X(select_largest, "values, bias, n, width, count, at, largest")                                \
  X(matmul_size, "m, depth")                                                                     \
  X(matmul, "a, b, n, m, depth, out, scratch")                                                   \
  X(nearest, "x, centres, bias, n, m, depth, count, at, closeness, scratch")                     \
  X(matmul_for_xla, "")
#define KERNEL(name) PyObject *py_##name(PyObject *module, PyObject *const *argv, Py_ssize_t argc)
#define OPEN(name, count) \
  (void)module;           \
  Call call, *c = &call;  \
  call_open(c, #name, argv, argc, count, count)
#define DECLARE(name, signature) KERNEL(name);
KERNELS(DECLARE)
BUILDER_KERNELS(DECLARE)
