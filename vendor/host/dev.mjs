// node dev.mjs CONFIG STATE VARIABLES PORT: what `wrangler dev` does, on 127.0.0.1, with no inspector and no registry.
// Its command line cannot leave them out, and through the inspector any page in a browser of this machine could run code
// in the Worker and read its secrets.
import { unstable_startWorker } from "wrangler";

const [config, state, variables, port] = process.argv.slice(2);
const worker = await unstable_startWorker({
  config,
  envFiles: [variables],
  // These replace the file's. The second makes workerd take the bundle of this folder.
  compatibilityFlags: ["python_workers", "python_workers_development"],
  dev: { server: { hostname: "127.0.0.1", port: Number(port) }, inspector: false, persist: state },
});
console.log(`Ready on ${(await worker.url).origin}`);
