//! Tokens taken apart and put together by OpenSSL alone: what the edge signs is judged here
//! without its library, and what an attacker would send is made here.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::sign::{Signer, Verifier};
use serde_json::Value;

use crate::pki::Key;
use crate::world::Client;

/// A token taken apart.
pub struct Jwt {
    pub header: Value,
    pub claims: Value,
    pub signed: String,
    pub signature: Vec<u8>,
}

impl Jwt {
    #[track_caller]
    pub fn of(client: &Client) -> Jwt {
        Jwt::parse(&client.token().unwrap().access_token())
    }

    pub fn parse(token: &str) -> Jwt {
        let part = |text: &str| -> Value { serde_json::from_slice(&decoded(text)).unwrap() };
        let [header, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        Jwt {
            header: part(header),
            claims: part(claims),
            signed: format!("{header}.{claims}"),
            signature: decoded(signature),
        }
    }

    pub fn kid(&self) -> &str {
        self.header["kid"].as_str().unwrap()
    }

    /// Whether the key of the set that the header names has signed it (RFC 7518 section 3).
    pub fn verifies(&self, jwks: &Value) -> bool {
        let keys = jwks["keys"].as_array().unwrap();
        let Some(key) = keys.iter().find(|key| key["kid"] == self.header["kid"]) else {
            return false;
        };
        assert_eq!((&key["alg"], &key["use"]), (&self.header["alg"], &"sig".into()));
        let number =
            |name: &str| BigNum::from_slice(&decoded(key[name].as_str().unwrap())).unwrap();
        let (public, signature) = match key["kty"].as_str().unwrap() {
            "EC" => {
                assert_eq!(key["crv"], "P-256");
                assert_eq!(self.signature.len(), 64);
                let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
                let (x, y) = (number("x"), number("y"));
                let key = EcKey::from_public_key_affine_coordinates(&group, &x, &y).unwrap();
                let [r, s] = [&self.signature[..32], &self.signature[32..]]
                    .map(|half| BigNum::from_slice(half).unwrap());
                let signature = EcdsaSig::from_private_components(r, s).unwrap();
                (PKey::from_ec_key(key).unwrap(), signature.to_der().unwrap())
            }
            "RSA" => {
                let key = Rsa::from_public_components(number("n"), number("e")).unwrap();
                (PKey::from_rsa(key).unwrap(), self.signature.clone())
            }
            other => panic!("{other}"),
        };
        let mut verifier = Verifier::new(MessageDigest::sha256(), &public).unwrap();
        // An error is a signature that is not even well-formed.
        verifier.verify_oneshot(&signature, self.signed.as_bytes()).unwrap_or(false)
    }
}

/// The same token with one claim changed and the signature kept.
pub fn tampered(token: &str) -> String {
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let mut claims: Value = serde_json::from_slice(&decoded(claims)).unwrap();
    claims["sub"] = "device_somebody-else".into();
    format!("{header}.{}.{signature}", encoded(claims.to_string()))
}

/// A token of any header and claims, signed by an EC or RSA key as ES256 or RS256 are.
pub fn signed(header: &Value, claims: &Value, key: &Key) -> String {
    let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
    let signature = key.sign(message.as_bytes());
    let signature = match EcdsaSig::from_der(&signature) {
        Ok(pair) => {
            let half = |number: &openssl::bn::BigNumRef| number.to_vec_padded(32).unwrap();
            [half(pair.r()), half(pair.s())].concat()
        }
        Err(_) => signature,
    };
    format!("{message}.{}", encoded(signature))
}

/// A token with an HMAC under any secret, as HS256 has it.
pub fn with_hmac(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
    let key = PKey::hmac(secret).unwrap();
    let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
    let mac = signer.sign_oneshot_to_vec(message.as_bytes()).unwrap();
    format!("{message}.{}", encoded(mac))
}

/// A token without a signature.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}.", encoded(header.to_string()), encoded(claims.to_string()))
}

pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decoded(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// The key set that verifiers fetch.
pub fn jwks(client: &Client) -> Value {
    client.get("/.well-known/jwks.json").unwrap().json()
}

pub fn kids(jwks: &Value) -> Vec<&str> {
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect()
}
