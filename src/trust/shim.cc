#include "shim.h"
#include "ed25519.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include <openssl/bytestring.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/nid.h>
#include <openssl/pki/signature_verify_cache.h>
#include <openssl/pool.h>

#include "pki/cert_errors.h"
#include "pki/cert_issuer_source_static.h"
#include "pki/certificate_policies.h"
#include "pki/common_cert_errors.h"
#include "pki/crl.h"
#include "pki/encode_values.h"
#include "pki/extended_key_usage.h"
#include "pki/general_names.h"
#include "pki/parse_certificate.h"
#include "pki/parsed_certificate.h"
#include "pki/parser.h"
#include "pki/path_builder.h"
#include "pki/signature_algorithm.h"
#include "pki/simple_path_builder_delegate.h"
#include "pki/trust_store_in_memory.h"
#include "pki/verify_certificate_chain.h"
#include "pki/verify_name_match.h"
#include "pki/verify_signed_data.h"

using namespace bssl;
using Certificate = std::shared_ptr<const ParsedCertificate>;
using Clock = std::chrono::steady_clock;
using Serial = std::array<uint8_t, PKI_SERIAL_OCTETS>;

// A CRL whose issuer is known and whose signature has been verified.
struct Crl {
  int64_t this_update;
  int64_t next_update;
  std::vector<der::Input> serials;  // sorted, inside the CRL's DER

  bool Lists(der::Input serial) const {
    return std::binary_search(serials.begin(), serials.end(), serial);
  }
};

// The CRLs of one issuer. An issuer is a name and a key: another CA of the same name has its
// own serial numbers.
struct CrlIssuer {
  der::Input spki;
  UniquePtr<EVP_PKEY> key;
  std::vector<Crl> crls;
};

struct pki_store {
  explicit pki_store(bool accept) : accept_stale_crls(accept) {}

  const bool accept_stale_crls;
  TrustStoreInMemory anchors;
  CertIssuerSourceStatic intermediates;
  std::vector<Certificate> cas;
  std::unordered_map<const ParsedCertificate *, uint32_t> anchor_ids;
  std::map<der::Input, std::vector<CrlIssuer>> crl_issuers;  // by normalized name
  std::vector<Serial> revoked;  // under every anchor; sorted
};

namespace {

// Bounds of one verification. A path of a fleet has two to four certificates; the public
// vectors' longest good one has eleven.
constexpr uint32_t kIterations = 200;
constexpr auto kDeadline = std::chrono::milliseconds(50);

// ---- Certificates ------------------------------------------------------------------------

// The first line of what libpki has to say, which is a fixed text of its own. Further lines
// may quote the input and are left out.
void Explain(const CertErrors &errors, char *detail) {
  std::string text = errors.ToDebugString();
  size_t start = text.find(": ");
  start = start == std::string::npos ? 0 : start + 2;
  size_t len = std::min(text.find('\n', start), text.size()) - start;
  len = std::min<size_t>(len, PKI_DETAIL - 1);
  memcpy(detail, text.data() + start, len);
  detail[len] = 0;
}

// The certificate borrows `der`.
Certificate Parse(pki_bytes der, char *detail) {
  UniquePtr<CRYPTO_BUFFER> buffer(
      CRYPTO_BUFFER_new_from_static_data_unsafe(der.data, der.len, nullptr));
  if (!buffer) return nullptr;
  CertErrors errors;
  Certificate cert = ParsedCertificate::Create(std::move(buffer), {}, &errors);
  if (!cert && detail) Explain(errors, detail);
  return cert;
}

// RFC 5280 section 4.1.2.2: positive, at most 20 octets.
bool HasGoodSerial(const ParsedCertificate &cert) {
  der::Input serial = cert.tbs().serial_number;
  return !serial.empty() && serial.size() <= 20 && (serial[0] & 0x80) == 0 &&
         std::any_of(serial.begin(), serial.end(), [](uint8_t b) { return b != 0; });
}

bool IsGoodKey(const EVP_PKEY *key) {
  switch (EVP_PKEY_id(key)) {
    case EVP_PKEY_RSA: {
      int bits = EVP_PKEY_bits(key);
      return bits >= 2048 && bits <= 8192 && bits % 8 == 0;
    }
    case EVP_PKEY_EC: {
      int curve = EVP_PKEY_get_ec_curve_nid(key);
      return curve == NID_X9_62_prime256v1 || curve == NID_secp384r1 || curve == NID_secp521r1;
    }
    case EVP_PKEY_ED25519:
      return true;
    default:
      return false;
  }
}

bool IsGoodSignatureAlgorithm(SignatureAlgorithm algorithm) {
  if (algorithm == kEd25519) return true;
  switch (algorithm) {
    case SignatureAlgorithm::kRsaPkcs1Sha256:
    case SignatureAlgorithm::kRsaPkcs1Sha384:
    case SignatureAlgorithm::kRsaPkcs1Sha512:
    case SignatureAlgorithm::kRsaPssSha256:
    case SignatureAlgorithm::kRsaPssSha384:
    case SignatureAlgorithm::kRsaPssSha512:
    case SignatureAlgorithm::kEcdsaSha256:
    case SignatureAlgorithm::kEcdsaSha384:
    case SignatureAlgorithm::kEcdsaSha512:
      return true;
    default:
      return false;
  }
}

UniquePtr<EVP_PKEY> KeyOf(const ParsedCertificate &cert) {
  UniquePtr<EVP_PKEY> key;
  if (!ParsePublicKey(cert.tbs().spki_tlv, &key)) key = nullptr;
  return key;
}

bool IsCa(const ParsedCertificate &cert) {
  return cert.has_basic_constraints() && cert.basic_constraints().is_ca;
}

// Critical extensions that path validation does not process.
bool HasForeignCriticalExtension(const ParsedCertificate &cert) {
  static const std::set<der::Input> known = {
      der::Input(kBasicConstraintsOid),    der::Input(kKeyUsageOid),
      der::Input(kExtKeyUsageOid),         der::Input(kNameConstraintsOid),
      der::Input(kSubjectAltNameOid),      der::Input(kCertificatePoliciesOid),
      der::Input(kPolicyMappingsOid),      der::Input(kPolicyConstraintsOid),
      der::Input(kInhibitAnyPolicyOid),
  };
  return std::any_of(cert.extensions().begin(), cert.extensions().end(), [](const auto &entry) {
    return entry.second.critical && known.find(entry.first) == known.end();
  });
}

// RFC 5280 sections 4.2.1.11 and 4.2.1.14: policy constraints and inhibitAnyPolicy MUST be
// critical. One that is not was not meant as the limit that it looks like.
bool HasNonCriticalPolicyLimit(const ParsedCertificate &cert) {
  ParsedExtension extension;
  for (der::Input oid : {der::Input(kPolicyConstraintsOid), der::Input(kInhibitAnyPolicyOid)})
    if (cert.GetExtension(oid, &extension) && !extension.critical) return true;
  return false;
}

bool IsSelfIssued(const ParsedCertificate &cert) {
  return cert.normalized_subject() == cert.normalized_issuer();
}

// Whether the key identifiers say that `issuer` is not the issuer of `cert` (RFC 5280 section
// 4.2.1.1), only a CA of the same name.
bool IsAnotherKey(const ParsedCertificate &cert, const ParsedCertificate &issuer) {
  const auto &authority = cert.authority_key_identifier();
  const auto &subject = issuer.subject_key_identifier();
  return authority && authority->key_identifier && subject &&
         *authority->key_identifier != *subject;
}

// A self-signed certificate whose authority key identifier names another key, or none, was
// put together wrongly. (Self-issued ones that another key signed are part of a key change.)
bool ContradictsItself(const ParsedCertificate &cert) {
  const auto &authority = cert.authority_key_identifier();
  return authority && (!authority->key_identifier || IsAnotherKey(cert, cert)) &&
         VerifyCertificateIsSelfSigned(cert, nullptr, nullptr);
}

// RFC 1034 section 3.5, with underscores, and with a star for the whole first label.
bool IsDnsName(std::string_view name) {
  if (name.substr(0, 2) == "*.") name.remove_prefix(2);
  if (name.empty() || name.size() > 253) return false;
  size_t label = 0;
  for (char c : name) {
    if (c == '.') {
      if (label == 0) return false;
      label = 0;
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '-' || c == '_') {
      if (++label > 63) return false;
    } else {
      return false;
    }
  }
  return label != 0;
}

int64_t Posix(const der::GeneralizedTime &time) {
  int64_t seconds;
  return der::GeneralizedTimeToPosixTime(time, &seconds) ? seconds : 0;
}

// What every certificate of a path must meet beyond RFC 5280's path validation.
pki_fault CheckAny(const ParsedCertificate &cert) {
  if (cert.tbs().version != CertificateVersion::V3) return PKI_NOT_V3;
  if (!HasGoodSerial(cert)) return PKI_SERIAL;
  return PKI_OK;
}

pki_fault CheckCa(const ParsedCertificate &cert) {
  if (pki_fault fault = CheckAny(cert)) return fault;
  if (!IsCa(cert)) return PKI_NOT_A_CA;
  if (cert.has_key_usage() && !cert.key_usage().AssertsBit(KEY_USAGE_BIT_KEY_CERT_SIGN))
    return PKI_KEY_CERT_SIGN;
  if (HasNonCriticalPolicyLimit(cert)) return PKI_NOT_CRITICAL;
  return PKI_OK;
}

pki_fault CheckKey(const ParsedCertificate &cert) {
  UniquePtr<EVP_PKEY> key = KeyOf(cert);
  return key && IsGoodKey(key.get()) ? PKI_OK : PKI_KEY;
}

pki_fault CheckDates(const ParsedCertificate &cert, int64_t now) {
  if (now < Posix(cert.tbs().validity_not_before)) return PKI_NOT_YET_VALID;
  if (now > Posix(cert.tbs().validity_not_after)) return PKI_EXPIRED;
  return PKI_OK;
}

// The serial number as revocations have it; none where it is longer than 20 octets.
std::optional<Serial> SerialOf(const ParsedCertificate &cert) {
  der::Input octets = cert.tbs().serial_number;
  auto start = std::find_if(octets.begin(), octets.end(), [](uint8_t b) { return b != 0; });
  size_t len = octets.end() - start;
  Serial serial = {};
  if (len > serial.size()) return std::nullopt;
  std::copy(start, octets.end(), serial.end() - len);
  return serial;
}

bool IsRevoked(const pki_store &store, const ParsedCertificate &cert) {
  if (store.revoked.empty()) return false;
  std::optional<Serial> serial = SerialOf(cert);
  return serial && std::binary_search(store.revoked.begin(), store.revoked.end(), *serial);
}

// A pinned certificate is trusted for being itself: who signed it, what its extensions say and
// of which version it is proves nothing more. A serial number that no revocation could name is
// refused.
pki_fault CheckPinned(const pki_store &store, const ParsedCertificate &cert, int64_t now) {
  if (!SerialOf(cert)) return PKI_SERIAL;
  if (IsRevoked(store, cert)) return PKI_REVOKED;
  if (pki_fault fault = CheckKey(cert)) return fault;
  return CheckDates(cert, now);
}

// Everything that the end-entity certificate can be held against without an issuer. Some of
// it libpki checks again; here it decides whether an issuer is worth looking for.
pki_fault CheckLeaf(const ParsedCertificate &cert, int64_t now) {
  if (pki_fault fault = CheckAny(cert)) return fault;
  if (IsCa(cert)) return PKI_IS_A_CA;
  if (pki_fault fault = CheckKey(cert)) return fault;
  auto algorithm = cert.signature_algorithm();
  if (!algorithm || !IsGoodSignatureAlgorithm(*algorithm)) return PKI_SIGNATURE_ALGORITHM;
  // RFC 8446 section 4.4.2.2 wants digitalSignature; keyCertSign is a CA's (RFC 5280 4.2.1.3).
  if (cert.has_key_usage() &&
      (!cert.key_usage().AssertsBit(KEY_USAGE_BIT_DIGITAL_SIGNATURE) ||
       cert.key_usage().AssertsBit(KEY_USAGE_BIT_KEY_CERT_SIGN)))
    return PKI_LEAF_KEY_USAGE;
  if (cert.has_extended_key_usage()) {
    const auto &usages = cert.extended_key_usage();
    bool client = std::any_of(usages.begin(), usages.end(), [](der::Input usage) {
      return usage == der::Input(kClientAuth) || usage == der::Input(kAnyEKU);
    });
    if (!client) return PKI_EXTENDED_KEY_USAGE;
  }
  if (HasForeignCriticalExtension(cert)) return PKI_CRITICAL_EXTENSION;
  // RFC 5280 section 4.2.1.10: only a CA may have them.
  if (cert.has_name_constraints()) return PKI_LEAF_NAME_CONSTRAINTS;
  if (cert.has_subject_alt_names()) {
    const auto &names = cert.subject_alt_names()->dns_names;
    if (!std::all_of(names.begin(), names.end(), IsDnsName)) return PKI_DNS_NAME;
  }
  return CheckDates(cert, now);
}

int64_t WhenOf(pki_fault fault, const ParsedCertificate &cert) {
  if (fault == PKI_EXPIRED) return Posix(cert.tbs().validity_not_after);
  if (fault == PKI_NOT_YET_VALID) return Posix(cert.tbs().validity_not_before);
  return 0;
}

// ---- Signature cache ---------------------------------------------------------------------

// What signature checks found, shared by all stores of the process. libpki's key is a SHA-256
// over algorithm, public key, signature and signed data, so an entry is true for every tenant.
// A table of fixed size: an entry lives until another one needs its place.
class SharedSignatureCache : public SignatureVerifyCache {
 public:
  static SharedSignatureCache *Get() {
    // Never freed: verifications may outlive static destruction.
    static auto *cache = new SharedSignatureCache;
    return cache;
  }

  void Store(const std::string &key, Value value) override {
    if (key.size() != kKey) return;
    size_t index = IndexOf(key);
    std::lock_guard<std::mutex> lock(locks_[index % kLocks]);
    memcpy(slots_[index].key, key.data(), kKey);
    slots_[index].value = value;
  }

  Value Check(const std::string &key) override {
    if (key.size() != kKey) return Value::kUnknown;
    size_t index = IndexOf(key);
    std::lock_guard<std::mutex> lock(locks_[index % kLocks]);
    const Slot &slot = slots_[index];
    return memcmp(slot.key, key.data(), kKey) == 0 ? slot.value : Value::kUnknown;
  }

 private:
  static constexpr size_t kKey = 32, kSlots = 16384, kLocks = 64;

  struct Slot {
    uint8_t key[kKey] = {};
    Value value = Value::kUnknown;
  };

  static size_t IndexOf(const std::string &key) {
    uint32_t prefix;
    memcpy(&prefix, key.data(), sizeof(prefix));
    return prefix % kSlots;
  }

  std::array<std::mutex, kLocks> locks_;
  std::array<Slot, kSlots> slots_;
};

// ---- CRLs --------------------------------------------------------------------------------

const uint8_t kDeltaCrlIndicatorOid[] = {0x55, 0x1d, 0x1b};
const uint8_t kIssuingDistributionPointOid[] = {0x55, 0x1d, 0x1c};

// RFC 5280 section 5.2. A CRL limited to a part of an issuer's certificates must not pass for
// the whole, so scope extensions are refused even where they are wrongly not critical.
pki_fault CheckCrlExtensions(der::Input extensions_tlv) {
  std::map<der::Input, ParsedExtension> extensions;
  if (!ParseExtensions(extensions_tlv, &extensions)) return PKI_UNPARSABLE;
  for (const auto &[oid, extension] : extensions) {
    if (oid == der::Input(kDeltaCrlIndicatorOid) ||
        oid == der::Input(kIssuingDistributionPointOid))
      return PKI_CRL_SCOPE;
    if (extension.critical) return PKI_CRL_CRITICAL_EXTENSION;
  }
  return PKI_OK;
}

// RFC 5280 section 5.1.2.6. A critical entry extension forbids the use of the whole CRL.
pki_fault ReadSerials(der::Input revoked_tlv, bool v2, std::vector<der::Input> *serials) {
  der::Parser outer(revoked_tlv), entries;
  if (!outer.ReadSequence(&entries) || outer.HasMore()) return PKI_UNPARSABLE;
  while (entries.HasMore()) {
    der::Parser entry;
    der::Input serial;
    der::GeneralizedTime revoked_at;
    bool negative;
    if (!entries.ReadSequence(&entry) || !entry.ReadTag(CBS_ASN1_INTEGER, &serial) ||
        !der::IsValidInteger(serial, &negative) || !ReadUTCOrGeneralizedTime(&entry, &revoked_at))
      return PKI_UNPARSABLE;
    if (entry.HasMore()) {
      der::Input extensions_tlv;
      std::map<der::Input, ParsedExtension> extensions;
      if (!v2 || !entry.ReadRawTLV(&extensions_tlv) || entry.HasMore() ||
          !ParseExtensions(extensions_tlv, &extensions))
        return PKI_UNPARSABLE;
      for (const auto &[oid, extension] : extensions)
        if (extension.critical) return PKI_CRL_CRITICAL_EXTENSION;
    }
    serials->push_back(serial);
  }
  std::sort(serials->begin(), serials->end());
  return PKI_OK;
}

// The CRLs under the name and key of `issuer`, or null. Keys are compared as keys where their
// encodings differ.
CrlIssuer *FindCrlIssuer(std::map<der::Input, std::vector<CrlIssuer>> &issuers,
                         const ParsedCertificate &issuer) {
  auto named = issuers.find(issuer.normalized_subject());
  if (named == issuers.end()) return nullptr;
  for (CrlIssuer &entry : named->second)
    if (entry.spki == issuer.tbs().spki_tlv) return &entry;
  UniquePtr<EVP_PKEY> key = KeyOf(issuer);
  for (CrlIssuer &entry : named->second)
    if (key && EVP_PKEY_cmp(entry.key.get(), key.get()) == 1) return &entry;
  return nullptr;
}

pki_fault AddCrl(pki_store *store, pki_bytes der) {
  der::Input tbs, algorithm_tlv;
  der::BitString signature;
  ParsedCrlTbsCertList list;
  if (!ParseCrlCertificateList(der::Input(der.data, der.len), &tbs, &algorithm_tlv, &signature) ||
      !ParseCrlTbsCertList(tbs, &list))
    return PKI_UNPARSABLE;
  auto algorithm = ParseSignatureAlgorithm(algorithm_tlv);
  if (!algorithm || !IsGoodSignatureAlgorithm(*algorithm) ||
      list.signature_algorithm_tlv != algorithm_tlv)
    return PKI_SIGNATURE_ALGORITHM;
  if (!list.next_update) return PKI_CRL_NEXT_UPDATE;
  if (list.crl_extensions_tlv)
    if (pki_fault fault = CheckCrlExtensions(*list.crl_extensions_tlv)) return fault;

  Crl crl = {Posix(list.this_update), Posix(*list.next_update), {}};
  if (list.revoked_certificates_tlv)
    if (pki_fault fault = ReadSerials(*list.revoked_certificates_tlv,
                                      list.version == CrlVersion::V2, &crl.serials))
      return fault;

  der::Parser name(list.issuer_tlv);
  der::Input rdns;
  std::string issuer;
  CertErrors unused;
  if (!name.ReadTag(CBS_ASN1_SEQUENCE, &rdns) || name.HasMore() ||
      !NormalizeName(rdns, &issuer, &unused))
    return PKI_UNPARSABLE;

  pki_fault fault = PKI_CRL_ISSUER_UNKNOWN;
  for (const Certificate &ca : store->cas) {
    if (ca->normalized_subject() != der::Input(issuer)) continue;
    UniquePtr<EVP_PKEY> key = KeyOf(*ca);
    if (!key || !VerifySignedData(*algorithm, tbs, signature, key.get(), nullptr)) {
      if (fault == PKI_CRL_ISSUER_UNKNOWN) fault = PKI_SIGNATURE;
      continue;
    }
    if (ca->has_key_usage() && !ca->key_usage().AssertsBit(KEY_USAGE_BIT_CRL_SIGN)) {
      fault = PKI_CRL_SIGN;
      continue;
    }
    CrlIssuer *entry = FindCrlIssuer(store->crl_issuers, *ca);
    if (!entry) {
      auto &named = store->crl_issuers[ca->normalized_subject()];
      named.push_back({ca->tbs().spki_tlv, std::move(key), {}});
      entry = &named.back();
    }
    entry->crls.push_back(std::move(crl));
    return PKI_OK;
  }
  return fault;
}

// ---- Path building -----------------------------------------------------------------------

// Faults of our own, as libpki's path errors. The text only tells them apart.
DEFINE_CERT_ERROR_ID(kNotV3, "not v3");
DEFINE_CERT_ERROR_ID(kSerial, "serial");
DEFINE_CERT_ERROR_ID(kNotCritical, "not critical");

// Takes part in libpki's search: a path that breaks the profile or is revoked is a path that
// failed, and the next one is tried.
class Search : public SimplePathBuilderDelegate {
 public:
  Search(const pki_store &store, uint32_t max_intermediates, int64_t now)
      : SimplePathBuilderDelegate(2048, DigestPolicy::kStrong),
        store_(store), max_intermediates_(max_intermediates), now_(now),
        deadline_(Clock::now() + kDeadline) {}

  bool IsSignatureAlgorithmAcceptable(SignatureAlgorithm algorithm, CertErrors *) override {
    return IsGoodSignatureAlgorithm(algorithm);
  }
  bool IsPublicKeyAcceptable(const EVP_PKEY *key, CertErrors *) override {
    return IsGoodKey(key);
  }
  bool IsDeadlineExpired() override { return Clock::now() > deadline_; }
  SignatureVerifyCache *GetVerifyCache() override { return SharedSignatureCache::Get(); }

  void CheckPathAfterVerification(const CertPathBuilder &,
                                  CertPathBuilderResultPath *path) override {
    if (!path->IsValid()) return;
    uint32_t intermediates = 0;
    for (size_t i = 1; i < path->certs.size(); i++) {
      bool anchor = i + 1 == path->certs.size();
      if (!anchor && !IsSelfIssued(*path->certs[i]) && ++intermediates > max_intermediates_)
        Add(path, i, cert_errors::kMaxPathLengthViolated);
      switch (CheckCa(*path->certs[i])) {
        case PKI_OK: break;
        case PKI_NOT_V3: Add(path, i, kNotV3); break;
        case PKI_SERIAL: Add(path, i, kSerial); break;
        case PKI_NOT_A_CA: Add(path, i, cert_errors::kBasicConstraintsIndicatesNotCa); break;
        case PKI_KEY_CERT_SIGN: Add(path, i, cert_errors::kKeyCertSignBitNotSet); break;
        case PKI_NOT_CRITICAL: Add(path, i, kNotCritical); break;
        default: Add(path, i, cert_errors::kInternalError); break;
      }
    }
    if (path->IsValid()) CheckRevocation(path);
  }

  // When the first certificate of the path, or the CRL that vouches for one, ends. About the
  // last path that was found to be good.
  int64_t valid_until = 0;
  // About the last certificate that no current CRL covers.
  int64_t crl_end = 0;

 private:
  static void Add(CertPathBuilderResultPath *path, size_t i, CertErrorId id) {
    path->errors.GetErrorsForCert(i)->AddError(id);
  }

  void CheckRevocation(CertPathBuilderResultPath *path) {
    int64_t until = INT64_MAX;
    for (const Certificate &cert : path->certs)
      until = std::min(until, Posix(cert->tbs().validity_not_after));
    auto &issuers = const_cast<pki_store &>(store_).crl_issuers;
    for (size_t i = 0; i + 1 < path->certs.size(); i++) {
      if (IsRevoked(store_, *path->certs[i])) {
        Add(path, i, cert_errors::kCertificateRevoked);
        return;
      }
      if (issuers.empty()) continue;
      const CrlIssuer *issuer = FindCrlIssuer(issuers, *path->certs[i + 1]);
      if (!issuer) continue;
      int64_t current_until = INT64_MIN, newest = INT64_MIN;
      for (const Crl &crl : issuer->crls) {
        if (crl.Lists(path->certs[i]->tbs().serial_number)) {
          Add(path, i, cert_errors::kCertificateRevoked);
          return;
        }
        newest = std::max(newest, crl.next_update);
        if (crl.this_update <= now_ && now_ <= crl.next_update)
          current_until = std::max(current_until, crl.next_update);
      }
      if (store_.accept_stale_crls) continue;
      if (current_until == INT64_MIN) {
        crl_end = newest;
        Add(path, i, cert_errors::kUnableToCheckRevocation);
        return;
      }
      until = std::min(until, current_until);
    }
    valid_until = until;
  }

  const pki_store &store_;
  const uint32_t max_intermediates_;
  const int64_t now_;
  const Clock::time_point deadline_;
};

struct Named {
  CertErrorId id;
  pki_fault fault;
};

// In the order in which one is reported where a path has several.
const Named kFaults[] = {
    {cert_errors::kInternalError, PKI_INTERNAL},
    {cert_errors::kVerifySignedDataFailed, PKI_SIGNATURE},
    {cert_errors::kSignatureAlgorithmMismatch, PKI_SIGNATURE},
    {cert_errors::kUnacceptableSignatureAlgorithm, PKI_SIGNATURE_ALGORITHM},
    {cert_errors::kFailedParsingSpki, PKI_KEY},
    {cert_errors::kUnacceptablePublicKey, PKI_KEY},
    {cert_errors::kCertificateRevoked, PKI_REVOKED},
    {cert_errors::kValidityFailedNotAfter, PKI_EXPIRED},
    {cert_errors::kValidityFailedNotBefore, PKI_NOT_YET_VALID},
    {kNotV3, PKI_NOT_V3},
    {cert_errors::kMissingBasicConstraints, PKI_NOT_A_CA},
    {cert_errors::kBasicConstraintsIndicatesNotCa, PKI_NOT_A_CA},
    {cert_errors::kKeyCertSignBitNotSet, PKI_KEY_CERT_SIGN},
    {cert_errors::kMaxPathLengthViolated, PKI_PATH_LENGTH},
    {cert_errors::kUnconsumedCriticalExtension, PKI_CRITICAL_EXTENSION},
    {cert_errors::kNotPermittedByNameConstraints, PKI_NAME_CONSTRAINTS},
    {cert_errors::kTooManyNameConstraintChecks, PKI_NAME_CONSTRAINTS},
    {cert_errors::kEkuLacksClientAuth, PKI_EXTENDED_KEY_USAGE},
    {cert_errors::kNoValidPolicy, PKI_POLICY},
    {cert_errors::kPolicyMappingAnyPolicy, PKI_POLICY},
    {kSerial, PKI_SERIAL},
    {kNotCritical, PKI_NOT_CRITICAL},
    {cert_errors::kUnableToCheckRevocation, PKI_CRL_NOT_CURRENT},
};

// What to say of a path that reached an anchor and failed.
void Judge(const CertPathBuilderResultPath &path, pki_verdict *out) {
  const CertPathErrors &errors = path.errors;
  for (const Named &named : kFaults) {
    for (size_t depth = 0; depth < path.certs.size(); depth++) {
      const CertErrors *found = errors.GetErrorsForCert(depth);
      if (!found || !found->ContainsError(named.id)) continue;
      out->fault = named.fault;
      out->depth = depth;
      out->when = WhenOf(named.fault, *path.certs[depth]);
      if (named.fault == PKI_SIGNATURE && depth + 1 < path.certs.size() &&
          IsAnotherKey(*path.certs[depth], *path.certs[depth + 1])) {
        out->fault = PKI_NO_ISSUER;
        out->path_len = depth + 1;
        out->anchored = 0;
      }
      return;
    }
  }
  out->fault = PKI_OTHER;
}

// Says of all that was tried what brings the operator nearest to the cause: a path that
// reached an anchor by good signatures, before one with a bad signature, before none.
void Report(const pki_store &store, const CertPathBuilder::Result &result, pki_verdict *out) {
  if (result.exceeded_deadline) {
    out->fault = PKI_DEADLINE;
    return;
  }
  if (result.exceeded_iteration_limit) {
    out->fault = PKI_ITERATION_LIMIT;
    return;
  }
  auto rank = [](uint32_t fault) {
    switch (fault) {
      case PKI_NO_ISSUER: return 0;
      case PKI_DEPTH_LIMIT: return 1;
      case PKI_SIGNATURE: return 2;
      default: return 3;
    }
  };
  pki_verdict best = *out;
  best.fault = PKI_OK;
  uint32_t reached[PKI_MAX_PATH], reached_len = 0;
  for (const auto &path : result.paths) {
    pki_verdict here = *out;
    here.path_len = path->certs.size();
    here.depth = here.path_len ? here.path_len - 1 : 0;
    here.anchored = path->last_cert_trust.IsTrustAnchor();
    if (here.anchored) {
      Judge(*path, &here);
    } else if (path->errors.ContainsError(cert_errors::kDepthLimitExceeded)) {
      here.fault = PKI_DEPTH_LIMIT;
    } else if (path->errors.ContainsError(cert_errors::kNoIssuersFound)) {
      here.fault = PKI_NO_ISSUER;
    } else {
      here.fault = PKI_OTHER;
    }
    if (here.anchored && rank(here.fault) > rank(PKI_SIGNATURE) && reached_len < PKI_MAX_PATH) {
      auto anchor = store.anchor_ids.find(path->certs.back().get());
      if (anchor != store.anchor_ids.end()) reached[reached_len++] = anchor->second;
    }
    bool longer = here.fault == PKI_NO_ISSUER && here.path_len > best.path_len;
    if (best.fault == PKI_OK || rank(here.fault) > rank(best.fault) ||
        (rank(here.fault) == rank(best.fault) && longer))
      best = here;
  }
  if (best.fault != PKI_OK) *out = best;
  out->reached_len = reached_len;
  memcpy(out->reached, reached, reached_len * sizeof(*reached));
}

void Verify(const pki_store &store, const pki_bytes *chain, size_t n, uint32_t max_intermediates,
            int64_t now, pki_verdict *out) {
  Certificate leaf = Parse(chain[0], out->detail);
  if (!leaf) {
    out->fault = PKI_UNPARSABLE;
    return;
  }
  out->path_len = 1;
  if (pki_fault fault = CheckLeaf(*leaf, now)) {
    out->fault = fault;
    out->when = WhenOf(fault, *leaf);
    return;
  }
  der::GeneralizedTime time;
  if (!der::EncodePosixTimeAsGeneralizedTime(now, &time)) return;

  // What does not parse is no issuer; it is told where no path is found without it.
  size_t unparsable = 0;
  char detail[PKI_DETAIL] = {};
  CertIssuerSourceStatic presented;
  for (size_t i = 1; i < n; i++) {
    Certificate cert = Parse(chain[i], unparsable ? nullptr : detail);
    if (cert) presented.AddCert(std::move(cert));
    else if (!unparsable) unparsable = i;
  }

  Search search(store, max_intermediates, now);
  // The builder asks for mutable sources and only reads them.
  auto &sources = const_cast<pki_store &>(store);
  CertPathBuilder builder(leaf, &sources.anchors, &search, time, KeyPurpose::CLIENT_AUTH,
                          InitialExplicitPolicy::kFalse, {der::Input(kAnyPolicyOid)},
                          InitialPolicyMappingInhibit::kFalse, InitialAnyPolicyInhibit::kFalse);
  builder.AddCertIssuerSource(&presented);
  builder.AddCertIssuerSource(&sources.intermediates);
  builder.SetIterationLimit(kIterations);
  builder.SetDepthLimit(PKI_MAX_PATH);  // a path without its anchor stays below it
  CertPathBuilder::Result result = builder.Run();

  const CertPathBuilderResultPath *path = result.GetBestValidPath();
  if (!path) {
    Report(store, result, out);
    out->when = out->fault == PKI_CRL_NOT_CURRENT ? search.crl_end : out->when;
    if (unparsable && out->fault == PKI_NO_ISSUER) {
      out->fault = PKI_UNPARSABLE;
      out->depth = unparsable;
      memcpy(out->detail, detail, sizeof(detail));
    }
    return;
  }
  // The trust store is asked for issuers first, so the last certificate is its own object
  // even where the peer presents a copy.
  auto anchor = store.anchor_ids.find(path->certs.back().get());
  if (anchor == store.anchor_ids.end() || path->certs.size() > PKI_MAX_PATH) return;
  for (size_t i = 0; i < path->certs.size(); i++) {
    der::Input der = path->certs[i]->der_cert();
    out->path[i] = {der.data(), der.size()};
  }
  out->path_len = path->certs.size();
  out->anchor = anchor->second;
  out->valid_until = search.valid_until;
  out->fault = PKI_OK;
}

pki_fault AddCa(pki_store *store, pki_bytes der, int64_t anchor_id, pki_ca *out) {
  Certificate cert = Parse(der, out->detail);
  if (!cert) return PKI_UNPARSABLE;
  if (pki_fault fault = CheckCa(*cert)) return fault;
  if (pki_fault fault = CheckKey(*cert)) return fault;
  if (HasForeignCriticalExtension(*cert)) return PKI_CRITICAL_EXTENSION;
  if (ContradictsItself(*cert)) return PKI_KEY_IDENTIFIER;
  out->not_after = Posix(cert->tbs().validity_not_after);
  out->subject = {cert->subject_tlv().data(), cert->subject_tlv().size()};
  store->cas.push_back(cert);
  if (anchor_id < 0) {
    store->intermediates.AddCert(std::move(cert));
    return PKI_OK;
  }
  store->anchor_ids.emplace(cert.get(), static_cast<uint32_t>(anchor_id));
  store->anchors.AddCertificate(std::move(cert), CertificateTrust::ForTrustAnchor()
                                                     .WithEnforceAnchorExpiry()
                                                     .WithEnforceAnchorConstraints()
                                                     .WithRequireAnchorBasicConstraints());
  return PKI_OK;
}

}  // namespace

pki_store *pki_store_new(int accept_stale_crls) noexcept {
  try {
    return new pki_store(accept_stale_crls != 0);
  } catch (...) {
    return nullptr;
  }
}

void pki_store_free(pki_store *store) noexcept { delete store; }

uint32_t pki_store_add_ca(pki_store *store, pki_bytes der, int64_t anchor_id,
                          pki_ca *out) noexcept {
  *out = {};
  uint32_t fault = PKI_INTERNAL;
  try {
    fault = AddCa(store, der, anchor_id, out);
  } catch (...) {
  }
  ERR_clear_error();
  return fault;
}

uint32_t pki_store_add_crl(pki_store *store, pki_bytes der) noexcept {
  uint32_t fault = PKI_INTERNAL;
  try {
    fault = AddCrl(store, der);
  } catch (...) {
  }
  ERR_clear_error();
  return fault;
}

uint32_t pki_store_revoke(pki_store *store, pki_bytes serials) noexcept {
  if (serials.len % PKI_SERIAL_OCTETS != 0) return PKI_INTERNAL;
  try {
    std::vector<Serial> revoked(serials.len / PKI_SERIAL_OCTETS);
    const uint8_t *next = serials.data;
    for (Serial &serial : revoked) {
      std::copy_n(next, serial.size(), serial.begin());
      next += serial.size();
    }
    std::sort(revoked.begin(), revoked.end());
    store->revoked = std::move(revoked);
    return PKI_OK;
  } catch (...) {
    return PKI_INTERNAL;
  }
}

void pki_verify(const pki_store *store, const pki_bytes *chain, size_t n,
                uint32_t max_intermediates, int64_t now, pki_verdict *out) noexcept {
  *out = {};
  out->fault = PKI_INTERNAL;
  try {
    Verify(*store, chain, n, max_intermediates, now, out);
  } catch (...) {
    out->fault = PKI_INTERNAL;
  }
  // Nothing is left for a later SSL_get_error on this thread.
  ERR_clear_error();
}

void pki_verify_pinned(const pki_store *store, pki_bytes der, int64_t now,
                       pki_verdict *out) noexcept {
  *out = {};
  out->fault = PKI_INTERNAL;
  try {
    if (Certificate cert = Parse(der, out->detail)) {
      pki_fault fault = CheckPinned(*store, *cert, now);
      out->when = WhenOf(fault, *cert);
      out->valid_until = Posix(cert->tbs().validity_not_after);
      out->fault = fault;
    } else {
      out->fault = PKI_UNPARSABLE;
    }
  } catch (...) {
    out->fault = PKI_INTERNAL;
  }
  ERR_clear_error();
}
