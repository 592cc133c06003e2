// The same as fetch.mjs by Node's http2 module.
import http2 from "node:http2";

const { url, method, fields, body } = JSON.parse(process.argv[2]);
const { origin, pathname, search } = new URL(url);
const client = http2.connect(origin);
client.on("error", fail);
setTimeout(() => fail(new Error("no answer in 15 s")), 15_000).unref();
const request = client.request({ ":method": method, ":path": pathname + search, ...fields });
const answer = { fields: {}, body: "" };
request.on("error", fail);
request.on("response", (head) => {
    answer.status = head[":status"];
    for (const name of Object.keys(head)) if (!name.startsWith(":")) answer.fields[name] = String(head[name]);
});
request.setEncoding("utf8");
request.on("data", (part) => { answer.body += part; });
request.on("end", () => {
    console.log(JSON.stringify(answer));
    client.close();
});
request.end(body === "" ? undefined : body);

function fail(error) {
    console.error(String(error));
    process.exit(1);
}
