// Teaches libpki Ed25519.
//
// libpki learns what an algorithm is, and what a signature is worth, from three functions in
// two files. The files are compiled here under other names for these functions. Below stand
// those that the rest of libpki calls: they decide on Ed25519 and leave everything else to
// libpki's own. If another BoringSSL moves or changes one of the three, the build breaks.
#include "ed25519.h"

#include <string>

#include "pki/verify_signed_data.h"

#define ParseSignatureAlgorithm LibpkiParseSignatureAlgorithm
#define ParsePublicKey LibpkiParsePublicKey
#define VerifySignedData LibpkiVerifySignedData
#include "pki/signature_algorithm.cc"
#include "pki/verify_signed_data.cc"
#undef ParseSignatureAlgorithm
#undef ParsePublicKey
#undef VerifySignedData

BSSL_NAMESPACE_BEGIN

// RFC 8410 section 3: id-Ed25519, parameters absent. DER has one way to write it.
static const uint8_t kEd25519Identifier[] = {0x30, 0x05, 0x06, 0x03, OBJ_ENC_ED25519};

std::optional<SignatureAlgorithm> ParseSignatureAlgorithm(der::Input identifier) {
  if (identifier == der::Input(kEd25519Identifier)) return kEd25519;
  return LibpkiParseSignatureAlgorithm(identifier);
}

bool ParsePublicKey(der::Input spki, UniquePtr<EVP_PKEY> *key) {
  if (LibpkiParsePublicKey(spki, key)) return true;
  OpenSSLErrStackTracer clear_errors;
  const EVP_PKEY_ALG *ed25519 = EVP_pkey_ed25519();
  key->reset(EVP_PKEY_from_subject_public_key_info(spki.data(), spki.size(), &ed25519, 1));
  return *key != nullptr;
}

bool VerifySignedData(SignatureAlgorithm algorithm, der::Input data,
                      const der::BitString &signature, const EVP_PKEY *key,
                      SignatureVerifyCache *cache) {
  if (algorithm != kEd25519)
    return LibpkiVerifySignedData(algorithm, data, signature, key, cache);
  if (EVP_PKEY_id(key) != EVP_PKEY_ED25519 || signature.unused_bits() != 0) return false;

  using Value = SignatureVerifyCache::Value;
  std::string cache_key;
  if (cache) cache_key = SignatureVerifyCacheKey("Ed25519", data, signature.bytes(), key);
  if (!cache_key.empty())
    if (Value known = cache->Check(cache_key); known != Value::kUnknown)
      return known == Value::kValid;

  OpenSSLErrStackTracer clear_errors;
  ScopedEVP_MD_CTX context;
  if (!EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key)) return false;
  bool valid = EVP_DigestVerify(context.get(), signature.bytes().data(), signature.bytes().size(),
                                data.data(), data.size()) == 1;
  if (!cache_key.empty()) cache->Store(cache_key, valid ? Value::kValid : Value::kInvalid);
  return valid;
}

bool VerifySignedData(SignatureAlgorithm algorithm, der::Input data,
                      const der::BitString &signature, der::Input spki,
                      SignatureVerifyCache *cache) {
  UniquePtr<EVP_PKEY> key;
  return ParsePublicKey(spki, &key) &&
         VerifySignedData(algorithm, data, signature, key.get(), cache);
}

BSSL_NAMESPACE_END
