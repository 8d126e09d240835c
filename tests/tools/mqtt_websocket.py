"""A session of paho over WebSocket.

Standard input: {"port", "server_name", "ca", "cert", "key" (PEM), "version" (4 or 5),
"client_id", "topic"}. Standard output: {"echo", "token"}: the length of a message that went to
the broker and came back, and what came on s/dat.
"""

import json
import os
import socket
import ssl
import sys
import tempfile

import paho.mqtt.client as mqtt

asked = json.load(sys.stdin)
connect = socket.create_connection
# The name is the edge's, the address is the test's.
socket.create_connection = lambda address, *more, **named: connect(
    ("127.0.0.1", address[1]), *more, **named
)
context = ssl.create_default_context(cadata=asked["ca"])
with tempfile.NamedTemporaryFile("w", suffix=".pem", delete=False) as file:
    file.write(asked["cert"] + asked["key"])
context.load_cert_chain(file.name)
os.unlink(file.name)

client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2,
    client_id=asked["client_id"],
    transport="websockets",
    protocol=asked["version"],
)
client.tls_set_context(context)
client.ws_set_options(path="/mqtt")
arrived = {}


def on_connect(client, userdata, flags, reason, properties):
    if reason.is_failure:
        sys.exit(f"refused: {reason}")
    client.subscribe([(asked["topic"], 1), ("s/dat", 0)])


def on_subscribe(client, userdata, message, reasons, properties):
    # Larger than what one frame's length of two bytes can say.
    client.publish(asked["topic"], "x" * 100_000, qos=2)
    client.publish("s/uat", "", qos=1)


def on_message(client, userdata, message):
    arrived[message.topic] = message.payload
    if len(arrived) == 2:
        client.disconnect()


client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
client.connect(asked["server_name"], asked["port"], keepalive=20)
client.loop_forever(retry_first_connection=False)
outcome = {"echo": len(arrived[asked["topic"]]), "token": arrived["s/dat"].decode()}
json.dump(outcome, sys.stdout)
