// A device by MQTT.js: connects with its certificate, talks to the platform, gets a token.
//
// The first argument is where the packages are. Standard input: {"port", "ca", "certificate",
// "key", "version", "client_id"}. Standard output: {"sessions": [{"tokens", "messages"}]}: one
// for each of two connections, with what was received on `up/#`, as topic, QoS and text.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.argv[2]}/`);
const mqtt = require("mqtt");

const versions = {
  "3.1": { protocolVersion: 3, protocolId: "MQIsdp" },
  "3.1.1": { protocolVersion: 4 },
  "5.0": { protocolVersion: 5 },
};
const asked = JSON.parse(readFileSync(0, "utf8"));

async function session() {
  const client = await mqtt.connectAsync({
    protocol: "mqtts",
    host: "127.0.0.1",
    servername: "localhost",
    port: asked.port,
    ca: readFileSync(asked.ca),
    cert: readFileSync(asked.certificate),
    key: readFileSync(asked.key),
    clientId: asked.client_id,
    reconnectPeriod: 0,
    connectTimeout: 20_000,
    ...versions[asked.version],
  });
  const messages = [];
  const all = new Promise((done, failed) => {
    client.on("error", failed);
    client.on("message", (topic, payload, packet) => {
      messages.push([topic, packet.qos, payload.toString()]);
      if (messages.length === 4) done();
    });
    setTimeout(() => failed(new Error(`only ${JSON.stringify(messages)}`)), 20_000).unref();
  });
  const granted = await client.subscribeAsync({ "up/#": { qos: 2 }, "s/dat": { qos: 1 } });
  for (const qos of [0, 1, 2]) await client.publishAsync("up/x", `at ${qos}`, { qos });
  await client.publishAsync("s/uat", "", { qos: 1 });
  await all;
  await client.endAsync();
  const tokens = messages.filter(([topic]) => topic === "s/dat").map(([, , text]) => text);
  return { tokens, messages: messages.filter(([topic]) => topic !== "s/dat"), granted };
}

const sessions = [await session(), await session()];
process.stdout.write(JSON.stringify({ sessions }));
