"""A device by paho-mqtt: connects with its certificate, talks to the platform, gets a token.

Standard input: {"port", "ca", "certificate", "key", "version", "client_id"}. Standard output:
{"sessions": [{"tokens", "messages"}]}: one for each of two connections, with what was received
on `up/#`, as topic, QoS and text.
"""

import json
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

SECONDS = 20
PROTOCOLS = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5.0": mqtt.MQTTv5}

asked = json.load(sys.stdin)


def session():
    happened = queue.Queue()
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=asked["client_id"],
        protocol=PROTOCOLS[asked["version"]],
    )
    client.tls_set(ca_certs=asked["ca"], certfile=asked["certificate"], keyfile=asked["key"])
    client.on_connect = lambda c, u, flags, code, p: happened.put(("connected", code.is_failure))
    client.on_subscribe = lambda c, u, mid, codes, p: happened.put(
        ("subscribed", [code.value for code in codes])
    )
    client.on_publish = lambda c, u, mid, code, p: happened.put(("published", code.is_failure))
    client.on_message = lambda c, u, message: happened.put(
        ("message", (message.topic, message.qos, message.payload.decode()))
    )
    messages = []

    def wait(what):
        while True:
            kind, value = happened.get(timeout=SECONDS)
            if kind == what:
                return value
            if kind == "message":
                messages.append(value)

    client.connect("localhost", asked["port"])
    client.loop_start()
    assert not wait("connected")
    client.subscribe([("up/#", 2), ("s/dat", 1)])
    # What the broker grants and what the edge does, merged in order.
    assert wait("subscribed") == [2, 0]
    for qos in (0, 1, 2):
        client.publish("up/x", f"at {qos}", qos)
        assert not wait("published")
    client.publish("s/uat", "", 1)
    assert not wait("published")
    while len(messages) < 4:
        messages.append(wait("message"))
    client.disconnect()
    client.loop_stop()
    tokens = [text for topic, _, text in messages if topic == "s/dat"]
    return {"tokens": tokens, "messages": [m for m in messages if m[0] != "s/dat"]}


json.dump({"sessions": [session(), session()]}, sys.stdout)
