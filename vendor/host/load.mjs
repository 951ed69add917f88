// Copies a folder into a bucket of the local R2 that `wrangler dev --persist-to STATE` serves. Keys are relative paths.
//   node load.mjs FOLDER STATE BUCKET [--only NAME] [--skip NAME ...] [--prune]
// Objects that are already there (same size and SHA-256) are left alone; with --prune, keys without a file are deleted.
// Files and folders whose names start with a dot are not copied, nor are the folders FOLDER/NAME of --skip.
// With --only, nothing but the folder NAME in FOLDER, and the keys below NAME/, is looked at.
// What was written to an index here (NAME/log/) stays as long as FOLDER has the index, and an index that was made here
// until it is deleted.
// Keys whose last part is CURRENT name what is live, so they are written after everything else.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { once } from "node:events";
import { opendir, stat } from "node:fs/promises";
import { request } from "node:http";
import { join, relative, resolve, sep } from "node:path";
import { pipeline } from "node:stream/promises";
import { parseArgs } from "node:util";
import { Miniflare, convertV4MiniflareOptions } from "miniflare";

const CHUNK_BYTES = 2 ** 18;
const DELETED = 1000; // keys at a time, as many as R2 takes
const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: "string", default: "" },
    prune: { type: "boolean" },
    skip: { type: "string", multiple: true, default: [] },
  },
});
if (positionals.length !== 3) {
  console.error("usage: node load.mjs FOLDER STATE BUCKET [--only NAME] [--skip NAME ...] [--prune]");
  process.exit(2);
}
const [folder, state, bucketName] = [resolve(positionals[0]), resolve(positionals[1]), positionals[2]];

/** Every file that is looked at: {key, path, size}, CURRENT keys last, otherwise by key. */
async function localFiles() {
  const files = [];
  for await (const entry of await opendir(join(folder, values.only), { recursive: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const parts = relative(folder, path).split(sep);
    if (parts.some((part) => part.startsWith(".")) || values.skip.includes(parts[0])) continue;
    files.push({ key: parts.join("/"), path, size: (await stat(path)).size });
  }
  return files.sort((a, b) => isCurrent(a.key) - isCurrent(b.key) || (a.key < b.key ? -1 : 1));
}

/** Whether an index was made here: its log is no built generation's, and nothing was compacted yet. */
async function isMadeHere(bucket, name) {
  try {
    const { log, generation, deleted } = await (await bucket.get(`${name}/CURRENT`)).json();
    return log.id !== generation && log.start === 1 && log.ledger === undefined && !deleted;
  } catch {
    return false; // there is none, or one without a log
  }
}

const isLog = (key) => /^[^/]+\/log\//.test(key);
const isCurrent = (key) => (/(^|\/)CURRENT$/.test(key) ? 1 : 0);

async function sha256(path) {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: CHUNK_BYTES }), hash);
  return hash.digest("hex");
}

async function storedObjects(bucket) {
  const stored = new Map(); // key -> {size, sha256}
  const prefix = values.only && `${values.only}/`;
  for (let cursor; ; ) {
    const page = await bucket.list({ cursor, prefix });
    for (const { key, size, checksums } of page.objects) stored.set(key, { size, sha256: checksums.toJSON().sha256 });
    if (!page.truncated) return stored;
    cursor = page.cursor;
  }
}

/** Sends one file through the Worker below. Plain `http`, because `fetch` reads ahead without bound. */
async function put(url, { key, path, size, sha256 }) {
  const object = encodeURIComponent(JSON.stringify({ key, sha256 }));
  const call = request(url, { method: "PUT", headers: { object, "content-length": size } });
  const answered = once(call, "response");
  await pipeline(createReadStream(path, { highWaterMark: CHUNK_BYTES }), call);
  const [response] = await answered;
  const body = Buffer.concat(await response.toArray()).toString();
  if (response.statusCode !== 200) throw new Error(`${key}: ${body}`);
}

// The body reaches R2 as a stream of known length, so an object of any size passes through little memory.
const script = `export default {
  async fetch(request, { BUCKET }) {
    const { key, sha256 } = JSON.parse(decodeURIComponent(request.headers.get("object")));
    await BUCKET.put(key, request.body ?? "", { sha256 });
    return new Response();
  },
}`;
const miniflare = new Miniflare(
  convertV4MiniflareOptions({
    modules: true,
    script,
    resourcePersistencePath: join(state, "v3"), // where wrangler puts it below --persist-to
    r2Buckets: { BUCKET: bucketName },
  }),
);
try {
  const files = await localFiles();
  const url = await miniflare.ready;
  const bucket = await miniflare.getR2Bucket("BUCKET");
  const stored = await storedObjects(bucket);
  const count = { written: 0, kept: 0, deleted: 0, bytes: 0 };
  for (const { key, path, size } of files) {
    const there = stored.get(key);
    stored.delete(key);
    const digest = await sha256(path);
    if (there?.size === size && there.sha256 === digest) {
      count.kept += 1;
      continue;
    }
    if (there && isLog(key)) throw new Error(`${key}: was written both in the folder and here; write to one of them`);
    await put(url, { key, path, size, sha256: digest });
    count.written += 1;
    count.bytes += size;
  }
  // CURRENT goes first: what it names is whole until then.
  const nameOf = (key) => key.split("/")[0];
  const names = new Set(files.map(({ key }) => nameOf(key)));
  const made = new Set();
  for (const name of new Set([...stored.keys()].map(nameOf)))
    if (!names.has(name) && (await isMadeHere(bucket, name))) made.add(name);
  const unnamed = [...stored.keys()].filter((key) => !(made.has(nameOf(key)) || (isLog(key) && names.has(nameOf(key)))));
  const gone = values.prune ? unnamed.sort((a, b) => isCurrent(b) - isCurrent(a)) : [];
  for (let at = 0; at < gone.length; at += DELETED) await bucket.delete(gone.slice(at, at + DELETED));
  count.deleted = gone.length;
  console.log(JSON.stringify(count));
} finally {
  await miniflare.dispose();
}
