// Writes a stream of 5 MB with an old tag, 20 times, with Node's fetch: prints how many of the refusals arrived.
const [url] = process.argv.slice(2);
let refused = 0;
for (let n = 0; n < 20; n++) {
    let parts = 50;
    const body = new ReadableStream({
        pull: (to) => (parts-- > 0 ? to.enqueue(new Uint8Array(100_000)) : to.close()),
    });
    try {
        const answer = await fetch(url, {
            method: "PUT", headers: { "If-Match": '"old"' }, body, duplex: "half", signal: AbortSignal.timeout(15_000),
        });
        if (answer.status === 409 && (await answer.json()).type === "urn:ifmatch:stale") refused += 1;
    } catch (error) {
        console.error(String(error), String(error.cause));
    }
}
console.log(refused);
