"""Reads a PROXY protocol header with the package proxy-protocol, which shares no code with the edge.

Standard input: {"header": base64}. Standard output: the addresses and the TLVs of TLS. The
package knows no certificate, so that this TLV is read here.
"""

import base64
import json
import struct
import sys

from proxyprotocol.v2 import ProxyProtocolV2

ADDRESSES = {0x11: 12, 0x21: 36}


def tlvs(data):
    """Types and values, in their order; together they must fill what holds them."""
    while data:
        kind, length = struct.unpack_from("!BH", data)
        value = data[3 : 3 + length]
        assert len(value) == length, "a TLV is longer than what holds it"
        yield kind, value
        data = data[3 + length :]


header = base64.b64decode(json.load(sys.stdin)["header"])
assert struct.unpack_from("!H", header, 14)[0] == len(header) - 16
result = ProxyProtocolV2().unpack(header)
types = list(tlvs(header[16 + ADDRESSES[header[13]] :]))
ssl_types = list(tlvs(dict(types)[0x20][5:]))
certificate = dict(ssl_types).get(0x28)
ssl = result.tlv.ssl
told = {
    "source": [str(result.source[0]), result.source[1]],
    "destination": [str(result.dest[0]), result.dest[1]],
    "family": result.family.name,
    "protocol": result.protocol.name,
    "authority": result.tlv.authority,
    "client": ssl.client,
    "verify": ssl.verify,
    "version": ssl.version,
    "common_name": ssl.cn,
    "certificate": certificate and base64.b64encode(certificate).decode(),
    "types": [kind for kind, _ in types],
    "ssl_types": [kind for kind, _ in ssl_types],
}
json.dump(told, sys.stdout)
