// Asks an exported router (`vantage export-router`) with onnxruntime-web: Wasm, one thread, as a browser would.
//   node route.mjs MODEL.onnx QUERIES DIMENSION BATCH PROBABILITY ORDER
// QUERIES holds f32 (n, DIMENSION); PROBABILITY becomes f32 (n, blocks), ORDER i64 (n, blocks). All little-endian.
import { readFile, writeFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";

if (process.argv.length !== 8) {
  console.error("usage: node route.mjs MODEL.onnx QUERIES DIMENSION BATCH PROBABILITY ORDER");
  process.exit(2);
}
const [modelPath, queriesPath, dimensionText, batchText, probabilityPath, orderPath] = process.argv.slice(2);
const [dimension, batch] = [Number(dimensionText), Number(batchText)];

ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(await readFile(modelPath), { executionProviders: ["wasm"] });
const bytes = await readFile(queriesPath);
const queries = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);

const [probability, order] = [[], []];
for (let at = 0; at < queries.length; at += batch * dimension) {
  const some = queries.slice(at, at + batch * dimension);
  const found = await session.run({ query: new ort.Tensor("float32", some, [some.length / dimension, dimension]) });
  // Copies: what a tensor of the runtime holds may be given back to its heap.
  probability.push(Buffer.from(new Uint8Array(found.probability.data.slice().buffer)));
  order.push(Buffer.from(new Uint8Array(found.order.data.slice().buffer)));
  for (const tensor of Object.values(found)) tensor.dispose();
}
await writeFile(probabilityPath, Buffer.concat(probability));
await writeFile(orderPath, Buffer.concat(order));
