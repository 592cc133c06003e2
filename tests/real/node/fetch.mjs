// One request with Node's fetch: the request as JSON in the first argument, the answer as JSON on standard output.
const { url, method, fields, body } = JSON.parse(process.argv[2]);
const answer = await fetch(url, {
    method,
    headers: fields,
    body: body === "" ? undefined : body,
    signal: AbortSignal.timeout(15_000),
});
console.log(JSON.stringify({
    status: answer.status,
    fields: Object.fromEntries(answer.headers),
    body: await answer.text(),
}));
