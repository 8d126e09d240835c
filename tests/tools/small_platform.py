"""A platform behind the edge that trusts device tokens in one of the three ways.

Arguments: the way (shared-key, jwks or relay) and its settings as JSON. Says its port on the
first line of standard output. A request is answered 200 with the device if its bearer token
verifies, else 401. In the way `relay` it also makes tokens, for whoever the edge vouches for.

Standard library, PyJWT, and what PyJWT brings (cryptography).
"""

import datetime
import http.client
import http.server
import json
import re
import secrets
import socket
import ssl
import sys
import time

import jwt
from cryptography import x509

TOKEN_PATH = "/devicecontrol/deviceAccessToken"
# As the edge's Cache-Control says.
KEYS_KEPT = 300


class SharedKey:
    algorithm = "ES256"

    def __init__(self, settings):
        with open(settings["public_key"], "rb") as file:
            self.public_key = file.read()

    def key(self, token):
        return self.public_key


class Jwks:
    algorithm = "ES256"

    def __init__(self, settings):
        self.settings = settings
        self.keys, self.fetched_at = None, 0

    def key(self, token):
        if self.keys is None or time.monotonic() - self.fetched_at > KEYS_KEPT:
            self.keys, self.fetched_at = jwt.PyJWKSet.from_dict(self.fetch()), time.monotonic()
        return self.keys[jwt.get_unverified_header(token)["kid"]]

    def fetch(self):
        with open(self.settings["edge_address_file"]) as file:
            host, port = file.read().split(":")
        name = self.settings["issuer"]
        context = ssl.create_default_context(cafile=self.settings["ca"])
        connection = http.client.HTTPConnection(name)
        plain = socket.create_connection((host, int(port)), timeout=10)
        connection.sock = context.wrap_socket(plain, server_hostname=name)
        connection.request("GET", "/.well-known/jwks.json")
        response = connection.getresponse()
        assert response.status == 200, response.status
        return json.load(response)


class Relay:
    algorithm = "HS256"

    def __init__(self, settings):
        self.settings = settings
        self.secret = secrets.token_bytes(32)
        with open(settings["anchor"], "rb") as file:
            self.anchor = x509.load_pem_x509_certificate(file.read())

    def key(self, token):
        return self.secret

    def issue(self, header):
        """A token for the device whose chain the edge has validated; None for a bad one."""
        one = r"-----BEGIN CERTIFICATE-----(?: [A-Za-z0-9+/=]{1,64})+ -----END CERTIFICATE-----"
        if not re.fullmatch(f"{one}(?: {one})*", header):
            return None
        pems = [pem.replace(" ", "\n") for pem in re.findall(one, header)]
        # The blanks of the two marks are no line breaks.
        pems = [pem.replace("BEGIN\n", "BEGIN ").replace("END\n", "END ") for pem in pems]
        chain = [x509.load_pem_x509_certificate(pem.encode()) for pem in pems]
        now = datetime.datetime.now(datetime.timezone.utc)
        for certificate in chain:
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                return None
        for certificate, issuer in zip(chain, chain[1:]):
            certificate.verify_directly_issued_by(issuer)
        if chain[-1] != self.anchor:
            return None
        [name] = chain[0].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        now = int(time.time())
        claims = {
            "iss": self.settings["issuer"],
            "aud": self.settings["audience"],
            "sub": f"device_{name.value}",
            "ten": self.settings["tenant"],
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "jti": secrets.token_hex(16),
        }
        return jwt.encode(claims, self.secret, algorithm=self.algorithm)


def device(trust, settings, authorization):
    """Whose token it is; None where it does not hold."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    try:
        claims = jwt.decode(
            token,
            trust.key(token),
            algorithms=[trust.algorithm],
            issuer=settings["issuer"],
            audience=settings["audience"],
            leeway=60,
            options={"require": ["exp", "nbf", "iss", "aud", "sub"]},
        )
    except (jwt.PyJWTError, KeyError) as refused:
        print("refused:", repr(refused), file=sys.stderr)
        return None
    if claims["exp"] <= time.time() or claims.get("ten") != settings["tenant"]:
        return None
    return claims["sub"].removeprefix("device_")


def main():
    ways = {"shared-key": SharedKey, "jwks": Jwks, "relay": Relay}
    settings = json.loads(sys.argv[2])
    trust = ways[sys.argv[1]](settings)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            who = device(trust, settings, self.headers["Authorization"])
            if who is None:
                self.answer(401, {"error": "security/unauthorized"})
            else:
                self.answer(200, {"device": who})

        def do_POST(self):
            if self.path != TOKEN_PATH or not isinstance(trust, Relay):
                return self.answer(404, {"error": "not found"})
            token = trust.issue(self.headers["X-Ssl-Cert-Chain"] or "")
            if token is None:
                return self.answer(403, {"error": "security/forbidden"})
            return self.answer(200, {"accessToken": token})

        def answer(self, status, body):
            body = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


main()
