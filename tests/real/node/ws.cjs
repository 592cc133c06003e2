// The package ws through the gateway: node ws.cjs ORIGIN (ws://… or wss://…), or `node ws.cjs --h2 ORIGIN` (http://… or
// https://…) for WebSocket over h2 (RFC 8441). Prints what it saw as JSON.
const http2 = require("node:http2");
const WebSocket = require("ws");

const [first, second] = process.argv.slice(2);
const seen = { handshake: null, protocol: null, text: null, large: null, pong: false, close: null };
setTimeout(() => finish("no end in 20 s"), 20_000).unref();

if (first === "--h2") overHttp2(second);
else talk(new WebSocket(`${first}/ws/echo`, ["echo.v1"]));

function talk(socket) {
    const large = Buffer.alloc(2_000_000, "abc");
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
        if (!binary) seen.text = data.toString();
        else {
            seen.large = data.equals(large);
            socket.close(1000, "done");
        }
    });
    socket.on("close", (code, reason) => {
        seen.close = `${code} ${reason}`;
        finish();
    });
    if (socket.readyState === WebSocket.OPEN) socket.emit("open");
}

// ws knows only HTTP/1.1 handshakes, so this one is made by hand, and the stream is handed to it afterwards.
function overHttp2(origin) {
    const client = http2.connect(origin);
    client.on("error", (error) => finish(String(error)));
    client.once("remoteSettings", (settings) => {
        if (!settings.enableConnectProtocol) return finish("SETTINGS_ENABLE_CONNECT_PROTOCOL is not set");
        const stream = client.request({
            ":method": "CONNECT", ":protocol": "websocket", ":path": "/ws/echo",
            "sec-websocket-version": "13", "sec-websocket-protocol": "echo.v1",
        });
        stream.on("error", (error) => finish(String(error)));
        stream.on("response", (head) => {
            seen.handshake = head[":status"];
            if (head[":status"] !== 200) return finish(`status ${head[":status"]}`);
            const socket = new WebSocket(null);
            socket._isServer = false;
            socket._protocol = head["sec-websocket-protocol"];
            socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 1 << 26, allowSynchronousEvents: true });
            talk(socket);
        });
    });
}

function finish(error) {
    console.log(JSON.stringify(error === undefined ? seen : { ...seen, error }));
    process.exit(0);
}
