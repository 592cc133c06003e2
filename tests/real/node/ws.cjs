// The package ws through the gateway: node ws.cjs ORIGIN (ws://… or wss://…). Prints what it saw as JSON.
const WebSocket = require("ws");

const seen = { handshake: null, protocol: null, text: null, large: null, pong: false, close: null };
const large = Buffer.alloc(2_000_000, "abc");
const socket = new WebSocket(`${process.argv[2]}/ws/echo`, ["echo.v1"]);
setTimeout(() => finish("no end in 20 s"), 20_000).unref();

socket.on("error", (error) => finish(String(error)));
socket.on("upgrade", (answer) => { seen.handshake = answer.statusCode; });
socket.on("open", () => {
    seen.protocol = socket.protocol;
    socket.ping("are you there");
    socket.send("text");
    socket.send(large);
});
socket.on("pong", (data) => { seen.pong = data.toString() === "are you there"; });
socket.on("message", (data, binary) => {
    if (!binary) {
        seen.text = data.toString();
    } else {
        seen.large = data.equals(large);
        socket.close(1000, "done");
    }
});
socket.on("close", (code, reason) => {
    seen.close = `${code} ${reason}`;
    finish();
});

function finish(error) {
    console.log(JSON.stringify(error === undefined ? seen : { ...seen, error }));
    process.exit(0);
}
