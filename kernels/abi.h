// The part of CPython's stable ABI that the kernels use, written out, so that a bare clang builds them for every
// Python from 3.11 on without Python.h (docs.python.org/3/c-api/stable.html; Py_buffer joined the ABI in 3.11).
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef int32_t i32;
typedef int64_t i64;
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef float f32;
typedef double f64;

typedef struct PyObject PyObject;
typedef struct PyThreadState PyThreadState;
typedef intptr_t Py_ssize_t;
typedef struct {
  void *buf;
  PyObject *obj;
  Py_ssize_t len, itemsize;
  int readonly, ndim;
  char *format;
  Py_ssize_t *shape, *strides, *suboffsets;
  void *internal;
} Py_buffer;
typedef PyObject *(*Fastcall)(PyObject *module, PyObject *const *argv, Py_ssize_t argc);
typedef struct {
  const char *name;
  Fastcall call;
  int flags;
  const char *doc;
} PyMethodDef;
typedef struct {
  Py_ssize_t refcnt;
  void *type, *init;
  Py_ssize_t index;
  void *copy;
  const char *name, *doc;
  Py_ssize_t size;
  PyMethodDef *methods;
  void *slots, *traverse, *clear, *free;
} PyModuleDef;
enum { PyBUF_SIMPLE = 0, PyBUF_WRITABLE = 1, METH_FASTCALL = 0x80, PYTHON_ABI = 3 };

extern PyObject *PyExc_ValueError, *PyExc_TypeError, *PyExc_OverflowError;
PyObject *PyModule_Create2(PyModuleDef *, int);
PyObject *PyLong_FromUnsignedLongLong(unsigned long long);
long long PyLong_AsLongLong(PyObject *);
double PyFloat_AsDouble(PyObject *);
PyObject *PyErr_Occurred(void);
int PyErr_ExceptionMatches(PyObject *);
void PyErr_Clear(void);
PyObject *PyErr_Format(PyObject *, const char *, ...);
int PyObject_GetBuffer(PyObject *, Py_buffer *, int);
PyObject *PyCapsule_New(void *, const char *name, void (*destructor)(PyObject *));
void PyBuffer_Release(Py_buffer *);
PyThreadState *PyEval_SaveThread(void);
void PyEval_RestoreThread(PyThreadState *);
