"""Verifies tokens with PyJWT and with joserfc, which know nothing but the key set.

Standard input: {"jwks", "algorithm", "issuer", "audience", "tokens": [...]}. Standard output:
{"pyjwt": [...], "joserfc": [...]}: for each token its subject, or null where it is refused.
"""

import json
import sys

import joserfc.errors
import joserfc.jwk
import joserfc.jwt
import jwt


def by_pyjwt(asked, token):
    try:
        keys = jwt.PyJWKSet.from_dict(asked["jwks"])
        key = keys[jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(
            token,
            key,
            algorithms=[asked["algorithm"]],
            issuer=asked["issuer"],
            audience=asked["audience"],
            options={"require": ["exp", "nbf", "iat", "iss", "aud", "sub", "jti"]},
        )
        return claims["sub"]
    except (jwt.PyJWTError, KeyError) as refused:
        print("PyJWT refuses:", repr(refused), file=sys.stderr)
        return None


def by_joserfc(asked, token):
    try:
        keys = joserfc.jwk.KeySet.import_key_set(asked["jwks"])
        decoded = joserfc.jwt.decode(token, keys, algorithms=[asked["algorithm"]])
        joserfc.jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": asked["issuer"]},
            aud={"essential": True, "value": asked["audience"]},
            exp={"essential": True},
            nbf={"essential": True},
            iat={"essential": True},
        ).validate(decoded.claims)
        return decoded.claims["sub"]
    except (joserfc.errors.JoseError, ValueError) as refused:
        print("joserfc refuses:", repr(refused), file=sys.stderr)
        return None


asked = json.load(sys.stdin)
outcomes = {
    "pyjwt": [by_pyjwt(asked, token) for token in asked["tokens"]],
    "joserfc": [by_joserfc(asked, token) for token in asked["tokens"]],
}
json.dump(outcomes, sys.stdout)
