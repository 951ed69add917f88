// Makes .pyodide/pyodide_dev.capnp.bin, the Pyodide bundle that workerd takes from its disk cache when a Worker has the
// flag `python_workers_development`. Its only input is the npm package `pyodide`, of production's version: no network.
//   node make-bundle.mjs        HEAP_MIB: ceiling of the Wasm heap, default 96; 0 leaves Pyodide's own 4 GiB
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const SOURCE = dirname(createRequire(import.meta.url).resolve("pyodide/package.json"));
const TARGET = join(import.meta.dirname, ".pyodide", "pyodide_dev.capnp.bin");
const HEAP_MIB = Number(process.env.HEAP_MIB || 96);
if (!Number.isInteger(HEAP_MIB) || HEAP_MIB < 0 || HEAP_MIB > 4095) {
  throw new Error(`HEAP_MIB is «${process.env.HEAP_MIB}»: give whole MiB from 0 to 4095`);
}

// What workerd forbids in Emscripten's glue, and the function of `pyodide-internal:builtin_wrappers` that stands in for it.
const IMPORTS = "getRandomValues,location,addEventListener,monotonicDateNow,newWasmModule,patchedLoadLibData,wasmInstantiate";
const NO_EVAL = `(()=>{throw new Error("eval is not available in a Worker")})()`;
const EDITS = [
  ["new WebAssembly.Module(", "newWasmModule("],
  ["WebAssembly.instantiate(", "wasmInstantiate("],
  ["Date.now", "monotonicDateNow"],
  ["crypto.getRandomValues(", "getRandomValues(Module,"],
  ["eval(func)", NO_EVAL],
  ["eval(data)", NO_EVAL],
  ["eval(UTF8ToString(ptr))", NO_EVAL],
  // Shared libraries come from the Worker's own read-only files; the original function stays behind, unused.
  [
    "function loadLibData(){",
    "function loadLibData(){const data=patchedLoadLibData(Module,libName,flags.rpath);" +
      "return flags.loadAsync?Promise.resolve(data):data}function unusedLoadLibData(){",
  ],
  // A snapshot replays where each library was placed, and each libffi closure (ctypes makes one when imported).
  ["alignMemory(getMemory(", "alignMemory(Module.getMemoryPatched(Module,libName,"],
  ["=index;return closure}ffi", "=index;Module.recordFfiClosureAlloc(closure,index);return closure}ffi"],
  [
    "freeTableIndexes.push(index);_free(closure)",
    "freeTableIndexes.push(index);Module.recordFfiClosureFree(closure,index);_free(closure)",
  ],
  ["export default _createPyodideModule;", "export{_createPyodideModule};"],
];
if (HEAP_MIB) EDITS.push(["getHeapMax=()=>4294901760", `getHeapMax=()=>${HEAP_MIB * 2 ** 20}`]);

let glue = readFileSync(join(SOURCE, "pyodide.asm.mjs"), "utf8");
for (const [text, replacement] of EDITS) {
  if (!glue.includes(text)) {
    throw new Error(`pyodide.asm.mjs has no «${text}»: this list of edits belongs to another version of pyodide`);
  }
  glue = glue.replaceAll(text, replacement);
}
glue = `import{${IMPORTS}}from"pyodide-internal:builtin_wrappers";\n${glue}`;

// workerd's pyodide-bundle schema: Bundle { modules :List(Module) }, and a Module is one data word (u16 type, u16 kind of
// body) and four pointers (name, body, two unused). One Cap'n Proto segment: root, Bundle, list tag, Modules, then bytes.
const TYPE_INTERNAL = 2;
const MODULE_WORDS = 5;
const BODY = { source: 0, wasm: 1, data: 2 };
const modules = [
  { name: "pyodide.asm", kind: BODY.source, body: Buffer.from(glue) },
  { name: "pyodide.asm.wasm", kind: BODY.wasm, body: readFileSync(join(SOURCE, "pyodide.asm.wasm")) },
  { name: "python_stdlib.zip", kind: BODY.data, body: readFileSync(join(SOURCE, "python_stdlib.zip")) },
];

let words = 3 + modules.length * MODULE_WORDS;
const placed = []; // {pointer, at, bytes}: a list of bytes, the word of its pointer and the word where it begins
modules.forEach(({ name, body }, i) => {
  const module = 3 + i * MODULE_WORDS;
  for (const [slot, bytes] of [Buffer.from(`pyodideRuntime-internal:${name}\0`), body].entries()) {
    placed.push({ pointer: module + 1 + slot, at: words, bytes });
    words += Math.ceil(bytes.length / 8);
  }
});

const HEADER_BYTES = 8;
const message = Buffer.alloc(HEADER_BYTES + 8 * words);
const word = (index, low, high) => {
  message.writeUInt32LE(low >>> 0, HEADER_BYTES + 8 * index);
  message.writeUInt32LE(high >>> 0, HEADER_BYTES + 8 * index + 4);
};
message.writeUInt32LE(words, 4); // one segment of so many words
word(0, 0, 1 << 16); // root -> Bundle: no data, one pointer
word(1, 1, ((modules.length * MODULE_WORDS) << 3) | 7); // Bundle.modules -> list of structs
word(2, modules.length << 2, (4 << 16) | 1); // its tag: one data word and four pointers each
modules.forEach(({ kind }, i) => word(3 + i * MODULE_WORDS, (kind << 16) | TYPE_INTERNAL, 0));
for (const { pointer, at, bytes } of placed) {
  word(pointer, ((at - pointer - 1) << 2) | 1, (bytes.length << 3) | 2);
  bytes.copy(message, HEADER_BYTES + 8 * at);
}

mkdirSync(dirname(TARGET), { recursive: true });
writeFileSync(`${TARGET}.part`, message);
renameSync(`${TARGET}.part`, TARGET); // an interrupted run leaves no bundle that looks whole
console.log(`${TARGET}: ${(message.length / 1e6).toFixed(1)} MB, Wasm heap ${HEAP_MIB ? `at most ${HEAP_MIB} MiB` : "not limited"}`);
