// Runs a Python script in Pyodide with the Wasm kernels: node pyodide_run.mjs PYODIDE_DIR KERN_SO SCRIPT [FILE...]
// SCRIPT sees `import kern` and its FILEs in sys.argv; its exit status becomes the process's.
import { readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [pyodideDir, kernSo, script, ...files] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(resolve(pyodideDir, "pyodide.mjs")).href);
const pyodide = await loadPyodide({ indexURL: resolve(pyodideDir) + "/" });
pyodide.FS.mkdirTree("/kernels");
pyodide.FS.writeFile("/kernels/kern.so", readFileSync(kernSo));
const argv = [script];
for (const file of files) {
  argv.push(join("/kernels", basename(file)));
  pyodide.FS.writeFile(argv.at(-1), readFileSync(file));
}
pyodide.globals.set("argv", pyodide.toPy(argv));
try {
  process.exitCode = pyodide.runPython(`
import sys
sys.path.insert(0, "/kernels")
sys.argv = list(argv)
status = 0
try:
    exec(compile(${JSON.stringify(readFileSync(script, "utf8"))}, sys.argv[0], "exec"), {"__name__": "__main__"})
except SystemExit as stop:
    status = stop.code if isinstance(stop.code, int) else stop.code is not None
    if isinstance(stop.code, str):
        print(stop.code)
int(status)
`);
} catch (error) {
  console.error(error.message);  // the error itself would print all of Pyodide's source
  process.exitCode = 1;
}
