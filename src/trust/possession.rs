//! Proof that somebody who uploads a CA certificate can sign with its key.

use boring::hash::MessageDigest;
use boring::pkey::{Id, PKey, PKeyRef, Public};
use boring::sign::Verifier;

use super::certificate::parse;

/// Octets of a signature: RSA of 8192 bits has 1,024.
const MAX_SIGNATURE: usize = 1_024;

/// Whether `signature` is the anchor's over the ASCII octets of `code`, without a line break:
/// what `openssl dgst -sha256 -sign ca.key` writes for an RSA key (PKCS #1 v1.5) or an ECDSA
/// key (DER), and `openssl pkeyutl -sign -rawin` for an Ed25519 key (over the code itself, RFC
/// 8032).
///
/// An empty code is signed by nobody.
pub fn verify_possession(anchor_der: &[u8], code: &str, signature: &[u8]) -> bool {
    if code.is_empty() || !code.is_ascii() || signature.len() > MAX_SIGNATURE {
        return false;
    }
    let Ok(anchor) = parse(anchor_der) else { return false };
    let Ok(key) = PKey::public_key_from_der(anchor.public_key().raw) else { return false };
    let Some(mut verifier) = verifier(&key) else { return false };
    verifier.verify_oneshot(signature, code.as_bytes()).unwrap_or(false)
}

fn verifier(key: &PKeyRef<Public>) -> Option<Verifier<'_>> {
    match key.id() {
        // BoringSSL's padding for RSA is PKCS #1 v1.5 unless another is set.
        Id::RSA | Id::EC => Verifier::new(MessageDigest::sha256(), key).ok(),
        Id::ED25519 => Verifier::new_without_digest(key).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use openssl::nid::Nid;

    use super::*;
    use crate::trust::testing::pki::{Key, Template};

    const CODE: &str = "3f8c1e7a";

    fn keys() -> [Key; 5] {
        [
            Key::p256(),
            Key::ec(Nid::SECP384R1),
            Key::ec(Nid::SECP521R1),
            Key::rsa(2048),
            Key::ed25519(),
        ]
    }

    #[test]
    fn the_holder_of_the_key_proves_it_with_every_kind_of_key() {
        for key in keys() {
            let anchor = Template::ca("Root").key(&key).self_signed().der;
            let signature = key.sign(CODE.as_bytes());
            assert!(verify_possession(&anchor, CODE, &signature));

            let mut broken = signature.clone();
            *broken.last_mut().unwrap() ^= 1;
            let longer = [signature.as_slice(), &[0]].concat();
            for (anchor, code, signature) in [
                (&anchor[..], "3f8c1e7b", &signature[..]),
                (&anchor, "3f8c1e7a\n", &signature),
                (&anchor, CODE, &broken),
                (&anchor, CODE, &longer),
                (&anchor, CODE, &[]),
                (&anchor[1..], CODE, &signature),
                (&[], CODE, &signature),
            ] {
                assert!(!verify_possession(anchor, code, signature));
            }
        }
    }

    #[test]
    fn another_key_proves_nothing() {
        for (key, other) in keys().into_iter().zip(keys()) {
            let anchor = Template::ca("Root").key(&key).self_signed().der;
            assert!(!verify_possession(&anchor, CODE, &other.sign(CODE.as_bytes())));
        }
    }

    #[test]
    fn an_empty_code_is_signed_by_nobody() {
        for key in keys() {
            let anchor = Template::ca("Root").key(&key).self_signed().der;
            assert!(!verify_possession(&anchor, "", &key.sign(b"")));
        }
    }

    #[test]
    fn a_digest_other_than_sha256_proves_nothing() {
        let key = Key::p256();
        let anchor = Template::ca("Root").key(&key).self_signed().der;
        assert!(!verify_possession(&anchor, CODE, &key.with_sha1().sign(CODE.as_bytes())));
    }
}
