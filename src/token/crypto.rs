//! JWS signatures by BoringSSL: the keys behind [`super::SigningKeys`], and the same code as
//! jsonwebtoken's `CryptoProvider`.
//!
//! Tokens are signed by [`PrivateKey::sign`] and not by `jsonwebtoken::encode`: that hands
//! its provider a key in DER for each token, to be parsed and checked anew
//! (measured: 6 µs for P-256, 100 µs for RSA of 2048 bits). For the same reason bearers are
//! verified by a [`PublicKey`] that is made of jsonwebtoken's key once.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boring::bn::{BigNum, BigNumContext};
use boring::ec::{EcGroup, EcKey, EcPoint, PointConversionForm};
use boring::ecdsa::EcdsaSig;
use boring::error::ErrorStack;
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{Id, PKey, Private, Public};
use boring::rsa::Rsa;
use boring::sha::sha256;
use boring::sign::{Signer, Verifier};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result as JwtResult};
use jsonwebtoken::{AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey, signature};
use serde::Serialize;

use super::{Algorithm, KeyFault};

/// Makes BoringSSL the cryptography of the crate jsonwebtoken. Call it before the first use
/// of that crate, which else settles for a provider that panics; again is harmless.
pub fn install_crypto_provider() {
    // The only error is that a provider is installed, which is this one.
    let _ = PROVIDER.install_default();
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // JWK conversions of private keys: ours are made in `public_coordinates`.
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        rsa_pub_components_from_public_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ec_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ed_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        compute_digest: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    },
};

/// DER in, as jsonwebtoken keeps it: PKCS#8, SEC1 or PKCS#1.
fn signer(alg: &jsonwebtoken::Algorithm, key: &EncodingKey) -> JwtResult<Box<dyn JwtSigner>> {
    let private = PKey::private_key_from_der(key.as_bytes())
        .map_err(|_| ErrorKind::InvalidKeyFormat)
        .and_then(|key| PrivateKey::new(key).map_err(|_| ErrorKind::InvalidKeyFormat))?;
    agrees(*alg, key.family(), private.algorithm())?;
    Ok(Box::new(private))
}

/// A verifier for exactly the algorithm that belongs to the key. `alg` comes from the
/// token, so anything else is refused: HMAC with a public key as its secret first of all.
fn verifier(alg: &jsonwebtoken::Algorithm, key: &DecodingKey) -> JwtResult<Box<dyn JwtVerifier>> {
    Ok(Box::new(PublicKey::new(*alg, key)?))
}

fn agrees(
    asked: jsonwebtoken::Algorithm,
    family: AlgorithmFamily,
    of_key: Algorithm,
) -> JwtResult<()> {
    let of_key = of_key.jose();
    if asked == of_key && family == of_key.family() {
        Ok(())
    } else {
        Err(ErrorKind::InvalidAlgorithm.into())
    }
}

impl Algorithm {
    pub(super) fn jose(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

/// Below: weak. Above: a signature would hold up a worker.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// What every verifier takes; a longer key costs each signature more.
const GENERATED_RSA_BITS: u32 = 2048;

/// `r` and `s` of P-256 in a JWS (RFC 7518 §3.4).
const P256_BYTES: usize = 32;

/// A private key that is fit to sign.
pub(super) enum PrivateKey {
    Es256(EcKey<Private>),
    Rs256(PKey<Private>),
}

impl PrivateKey {
    /// The first private key of a PEM text; encrypted ones are refused.
    pub(super) fn from_pem(pem: &[u8]) -> Result<PrivateKey, KeyFault> {
        let key = PKey::private_key_from_pem(pem).map_err(|_| KeyFault::Unreadable)?;
        PrivateKey::new(key)
    }

    /// An unencrypted PKCS#8 structure.
    pub(super) fn from_pkcs8(der: &[u8]) -> Result<PrivateKey, KeyFault> {
        let key = PKey::private_key_from_pkcs8(der).map_err(|_| KeyFault::Unreadable)?;
        PrivateKey::new(key)
    }

    /// A new random key, with its PKCS#8 structure. RSA takes a good part of a second, and
    /// its time is a matter of luck.
    pub(super) fn generate(algorithm: Algorithm) -> Result<(PrivateKey, Vec<u8>), ErrorStack> {
        let (private, key) = match algorithm {
            Algorithm::Es256 => {
                let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
                let key = EcKey::generate(&group)?;
                (PrivateKey::Es256(key.clone()), PKey::from_ec_key(key)?)
            }
            Algorithm::Rs256 => {
                let key = PKey::from_rsa(Rsa::generate(GENERATED_RSA_BITS)?)?;
                (PrivateKey::Rs256(key.clone()), key)
            }
        };
        let der = key.private_key_to_der_pkcs8()?;
        Ok((private, der))
    }

    fn new(key: PKey<Private>) -> Result<PrivateKey, KeyFault> {
        match key.id() {
            Id::EC => {
                let key = key.ec_key().map_err(|_| KeyFault::Unsupported)?;
                match key.group().curve_name() {
                    Some(Nid::X9_62_PRIME256V1) => Ok(PrivateKey::Es256(key)),
                    _ => Err(KeyFault::Unsupported),
                }
            }
            Id::RSA if RSA_BITS.contains(&key.bits()) => Ok(PrivateKey::Rs256(key)),
            _ => Err(KeyFault::Unsupported),
        }
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            PrivateKey::Es256(_) => Algorithm::Es256,
            PrivateKey::Rs256(_) => Algorithm::Rs256,
        }
    }

    /// The signature as a JWS carries it, before base64url.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        match self {
            PrivateKey::Es256(key) => {
                let signature = EcdsaSig::sign(&sha256(message), key)?;
                let mut bytes = signature.r().to_vec_padded(P256_BYTES)?;
                bytes.extend(signature.s().to_vec_padded(P256_BYTES)?);
                Ok(bytes)
            }
            PrivateKey::Rs256(key) => {
                Signer::new(MessageDigest::sha256(), key)?.sign_oneshot_to_vec(message)
            }
        }
    }

    /// The SubjectPublicKeyInfo.
    pub(super) fn public_der(&self) -> Result<Vec<u8>, ErrorStack> {
        match self {
            PrivateKey::Es256(key) => key.public_key_to_der(),
            PrivateKey::Rs256(key) => key.public_key_to_der(),
        }
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub(super) fn public_sha256(&self) -> Result<[u8; 32], ErrorStack> {
        Ok(sha256(&self.public_der()?))
    }

    pub(super) fn public_coordinates(&self) -> Result<Coordinates, ErrorStack> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            PrivateKey::Es256(key) => {
                let point = key.public_key().to_bytes(
                    key.group(),
                    PointConversionForm::UNCOMPRESSED,
                    &mut *BigNumContext::new()?,
                )?;
                // One byte for the form, then both coordinates in full length.
                let mut parts = point.get(1..).unwrap_or_default().chunks(P256_BYTES);
                let mut coordinate = || text(parts.next().unwrap_or_default());
                Ok(Coordinates::Ec { crv: "P-256", x: coordinate(), y: coordinate() })
            }
            PrivateKey::Rs256(key) => {
                let rsa = key.rsa()?;
                Ok(Coordinates::Rsa { n: text(&rsa.n().to_vec()), e: text(&rsa.e().to_vec()) })
            }
        }
    }
}

impl signature::Signer<Vec<u8>> for PrivateKey {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        self.sign(message).map_err(signature::Error::from_source)
    }
}

impl JwtSigner for PrivateKey {
    fn algorithm(&self) -> jsonwebtoken::Algorithm {
        PrivateKey::algorithm(self).jose()
    }
}

/// The public part of a key as a JWK names it (RFC 7518 §6.2.1, §6.3.1).
#[derive(Serialize)]
#[serde(tag = "kty")]
pub(super) enum Coordinates {
    #[serde(rename = "EC")]
    Ec { crv: &'static str, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
}

impl Coordinates {
    pub(super) fn decoding_key(&self) -> JwtResult<DecodingKey> {
        match self {
            Coordinates::Ec { x, y, .. } => DecodingKey::from_ec_components(x, y),
            Coordinates::Rsa { n, e } => DecodingKey::from_rsa_components(n, e),
        }
    }
}

/// A public key, parsed and checked.
pub(super) enum PublicKey {
    Es256(EcKey<Public>),
    Rs256(PKey<Public>),
}

impl PublicKey {
    /// `alg`: what the key is asked for; it verifies its own algorithm and no other.
    pub(super) fn new(alg: jsonwebtoken::Algorithm, key: &DecodingKey) -> JwtResult<PublicKey> {
        let public = match key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) if key.family() == AlgorithmFamily::Ec => {
                PublicKey::from_point(bytes)
            }
            DecodingKeyKind::SecretOrDer(der) if key.family() == AlgorithmFamily::Rsa => {
                Rsa::public_key_from_der_pkcs1(der).and_then(PKey::from_rsa).map(PublicKey::Rs256)
            }
            DecodingKeyKind::RsaModulusExponent { n, e } => PublicKey::from_components(n, e),
            DecodingKeyKind::SecretOrDer(_) => return Err(ErrorKind::InvalidAlgorithm.into()),
        };
        let public = public.map_err(|_| ErrorKind::InvalidKeyFormat)?;
        if let PublicKey::Rs256(key) = &public
            && !RSA_BITS.contains(&key.bits())
        {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        agrees(alg, key.family(), public.algorithm())?;
        Ok(public)
    }

    /// An uncompressed point on P-256; BoringSSL refuses one that is off the curve.
    fn from_point(bytes: &[u8]) -> Result<PublicKey, ErrorStack> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let point = EcPoint::from_bytes(&group, bytes, &mut *BigNumContext::new()?)?;
        EcKey::from_public_key(&group, &point).map(PublicKey::Es256)
    }

    fn from_components(n: &[u8], e: &[u8]) -> Result<PublicKey, ErrorStack> {
        let (n, e) = (BigNum::from_slice(n)?, BigNum::from_slice(e)?);
        Rsa::from_public_components(n, e).and_then(PKey::from_rsa).map(PublicKey::Rs256)
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            PublicKey::Es256(_) => Algorithm::Es256,
            PublicKey::Rs256(_) => Algorithm::Rs256,
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        match self {
            PublicKey::Es256(key) => {
                if signature.len() != 2 * P256_BYTES {
                    return Ok(false);
                }
                let (r, s) = signature.split_at(P256_BYTES);
                let (r, s) = (BigNum::from_slice(r)?, BigNum::from_slice(s)?);
                EcdsaSig::from_private_components(r, s)?.verify(&sha256(message), key)
            }
            PublicKey::Rs256(key) => {
                Verifier::new(MessageDigest::sha256(), key)?.verify_oneshot(signature, message)
            }
        }
    }
}

impl signature::Verifier<Vec<u8>> for PublicKey {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verdict = self.verifies(message, signature);
        // A failed check leaves entries in the thread's error queue, where the next TLS call
        // on this thread would take them for its own.
        drop(ErrorStack::get());
        match verdict {
            Ok(true) => Ok(()),
            Ok(false) => Err(signature::Error::new()),
            Err(error) => Err(signature::Error::from_source(error)),
        }
    }
}

impl JwtVerifier for PublicKey {
    fn algorithm(&self) -> jsonwebtoken::Algorithm {
        PublicKey::algorithm(self).jose()
    }
}
