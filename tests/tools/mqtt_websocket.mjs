// A session of MQTT.js over WebSocket.
//
// Argument: where the packages are. Standard input: {"port", "server_name", "ca", "cert", "key"
// (PEM), "version" (4 or 5), "client_id", "topic"}. Standard output: {"echo", "token"}: a message
// that went to the broker and came back, and what came on s/dat.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const packages = createRequire(pathToFileURL(`${process.argv[2]}/`));
const mqtt = packages("mqtt");
const asked = JSON.parse(readFileSync(0, "utf8"));

const client = await mqtt.connectAsync(
  `wss://${asked.server_name}:${asked.port}/mqtt`,
  {
    protocolVersion: asked.version,
    clientId: asked.client_id,
    ca: asked.ca,
    cert: asked.cert,
    key: asked.key,
    connectTimeout: 10_000,
    reconnectPeriod: 0,
    wsOptions: {
      // The name is the edge's, the address is the test's.
      lookup: (_, options, found) =>
        options.all
          ? found(null, [{ address: "127.0.0.1", family: 4 }])
          : found(null, "127.0.0.1", 4),
    },
  },
  false,
);
const arrived = new Map();
const both = new Promise((resolve, reject) => {
  client.on("message", (topic, payload) => {
    arrived.set(topic, payload.toString());
    if (arrived.size === 2) resolve();
  });
  client.on("close", () => reject(new Error("closed")));
});
await client.subscribeAsync({ [asked.topic]: { qos: 1 }, "s/dat": { qos: 0 } });
// Larger than what one frame's length of two bytes can say.
await client.publishAsync(asked.topic, "x".repeat(100_000), { qos: 2 });
await client.publishAsync("s/uat", "", { qos: 1 });
await both;
client.removeAllListeners("close");
await client.endAsync();
console.log(JSON.stringify({ echo: arrived.get(asked.topic).length, token: arrived.get("s/dat") }));
