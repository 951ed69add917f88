// The module `kern`: its method table. What each function does stands in src/kern.pyi.
#include "call.h"

void scan_detect(void);

#define ENTRY(name, signature) {#name, py_##name, METH_FASTCALL, #name "(" signature ", /)\n--\n\nSee kern.pyi."},
#if defined(__wasm__)
#define OF_BUILDERS
#else
#define OF_BUILDERS BUILDER_KERNELS(ENTRY)
#endif
static PyMethodDef methods[] = {KERNELS(ENTRY) OF_BUILDERS{0, 0, 0, 0}};
static PyModuleDef definition = {
    .refcnt = 1, .name = "kern", .doc = "Vantage's kernels; kern.pyi is the manual.", .size = 0, .methods = methods};

__attribute__((visibility("default"))) PyObject *PyInit_kern(void) {
  scan_detect();
  return PyModule_Create2(&definition, PYTHON_ABI);
}
