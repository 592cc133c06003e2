// CouchDB's protocol by express-pouchdb, with databases in memory: `node pouchdb.cjs PORT`. Its working folder gets a log.
"use strict";

const express = require("express");
const PouchDB = require("pouchdb-core")
  .plugin(require("pouchdb-adapter-memory"))
  .plugin(require("pouchdb-mapreduce"))
  .plugin(require("pouchdb-replication"));

const databases = PouchDB.defaults({ adapter: "memory" });
const mode = { mode: "minimumForPouchDB", overrideMode: { include: ["routes/security"] }, inMemoryConfig: true };
express()
  .use(require("express-pouchdb")(databases, mode))
  .listen(Number(process.argv[2]), "127.0.0.1");
