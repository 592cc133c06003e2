// A client of CouchDB's protocol: `node replicate.cjs DATABASE`. Copies documents there and back, hears of a change by the
// feed of changes, and writes with an old revision. Prints what came of it, as JSON.
"use strict";

const PouchDB = require("pouchdb-core")
  .plugin(require("pouchdb-adapter-memory"))
  .plugin(require("pouchdb-adapter-http"))
  .plugin(require("pouchdb-replication"));

async function main(url) {
  const here = new PouchDB("here", { adapter: "memory" });
  const there = new PouchDB(url);
  await here.bulkDocs(["one", "two", "three"].map((_id) => ({ _id, text: "here" })));
  const pushed = await here.replicate.to(there);

  const feed = there.changes({ since: "now", live: true, timeout: 5000 });
  const heard = new Promise((hear) => feed.on("change", (change) => hear(change.id)));
  const old = await there.get("one");
  await there.put({ ...old, text: "there" });
  const heardOf = await heard;
  feed.cancel();

  const pulled = await here.replicate.from(there);
  const refused = await there.put({ ...old, text: "late" }).catch((error) => error.name);
  const text = (await here.get("one")).text;
  return { pushed: pushed.docs_written, heard: heardOf, pulled: pulled.docs_written, text, refused };
}

main(process.argv[2])
  .then((seen) => console.log(JSON.stringify(seen)))
  .catch((error) => console.log(JSON.stringify({ error: String(error) })))
  .finally(() => process.exit());
