// The C ABI between ffi.rs and libpki. No C++ type and no exception crosses it, nothing that
// crosses it must be freed by the other side except the store.
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {

// What is wrong with a certificate, a path or a CRL. `Fault` in ffi.rs mirrors it.
enum pki_fault : uint32_t {
  PKI_OK = 0,
  PKI_INTERNAL,
  PKI_UNPARSABLE,
  PKI_NOT_V3,
  PKI_SERIAL,
  PKI_KEY,
  PKI_SIGNATURE_ALGORITHM,
  PKI_SIGNATURE,
  PKI_NOT_YET_VALID,
  PKI_EXPIRED,
  PKI_NOT_A_CA,
  PKI_IS_A_CA,
  PKI_KEY_CERT_SIGN,
  PKI_LEAF_KEY_USAGE,
  PKI_EXTENDED_KEY_USAGE,
  PKI_CRITICAL_EXTENSION,
  PKI_NOT_CRITICAL,
  PKI_KEY_IDENTIFIER,
  PKI_LEAF_NAME_CONSTRAINTS,
  PKI_DNS_NAME,
  PKI_PATH_LENGTH,
  PKI_NAME_CONSTRAINTS,
  PKI_POLICY,
  PKI_OTHER,
  PKI_REVOKED,
  PKI_CRL_NOT_CURRENT,
  PKI_NO_ISSUER,
  PKI_DEPTH_LIMIT,
  PKI_ITERATION_LIMIT,
  PKI_DEADLINE,
  PKI_CRL_NEXT_UPDATE,
  PKI_CRL_SCOPE,
  PKI_CRL_CRITICAL_EXTENSION,
  PKI_CRL_ISSUER_UNKNOWN,
  PKI_CRL_SIGN,
};

enum { PKI_MAX_PATH = 16, PKI_DETAIL = 80, PKI_SERIAL_OCTETS = 20 };

struct pki_bytes {
  const uint8_t *data;
  size_t len;
};

// What a store says of a CA certificate that it took in.
struct pki_ca {
  int64_t not_after;
  pki_bytes subject;         // DER of the Name, inside the certificate handed in
  char detail[PKI_DETAIL];   // see pki_verdict
};

struct pki_verdict {
  uint32_t fault;      // PKI_OK: `path` is a verified path
  uint32_t path_len;   // certificates in the path, or in the attempt that `fault` is about
  uint32_t depth;      // position of the faulty certificate in the attempt; for
                       // PKI_UNPARSABLE, in what was presented
  uint32_t anchored;   // whether the attempt's last certificate is an anchor
  uint32_t anchor;     // of a verified path: the id that its anchor was added under
  uint32_t reached_len;           // without a verified path: how many anchors were reached by
  uint32_t reached[PKI_MAX_PATH]; // good signatures, and their ids
  int64_t when;        // the date that PKI_EXPIRED, PKI_NOT_YET_VALID or PKI_CRL_NOT_CURRENT is about
  int64_t valid_until; // of a verified path: when the earliest certificate or needed CRL ends
  pki_bytes path[PKI_MAX_PATH];  // of a verified path: DER, end-entity first, inside the
                                 // buffers handed to pki_verify and pki_store_add_ca
  char detail[PKI_DETAIL];  // of PKI_UNPARSABLE: a fixed text of libpki, NUL-terminated, else empty
};

struct pki_store;

// NULL where memory is short.
pki_store *pki_store_new(int accept_stale_crls) noexcept;
void pki_store_free(pki_store *) noexcept;

// Adds a CA certificate or returns why not. `der` must stay in place and unchanged until the
// store is freed. `anchor_id` < 0: an intermediate, used for path building only.
uint32_t pki_store_add_ca(pki_store *, pki_bytes der, int64_t anchor_id, pki_ca *) noexcept;

// Adds a CRL or returns why not; after all CA certificates. `der` as in pki_store_add_ca.
uint32_t pki_store_add_crl(pki_store *, pki_bytes der) noexcept;

// Replaces the serial numbers that are revoked under every anchor, whoever issued the
// certificate: PKI_SERIAL_OCTETS each, big-endian, padded with zeros in front, in any order.
// Copies them.
uint32_t pki_store_revoke(pki_store *, pki_bytes serials) noexcept;

// Builds and verifies a path from chain[0] to an anchor. chain[1..n] is path-building input
// in any order. `max_intermediates` counts as pathLenConstraint does: without self-issued ones.
// Reads the store only: any number of threads may verify at one time.
void pki_verify(const pki_store *, const pki_bytes *chain, size_t n, uint32_t max_intermediates,
                int64_t now, pki_verdict *) noexcept;

// Holds one certificate against what a pinned one must meet by itself. Fills `fault`, `when`,
// `detail` and `valid_until`, and no path. Reads the store only, as pki_verify does.
void pki_verify_pinned(const pki_store *, pki_bytes der, int64_t now, pki_verdict *) noexcept;
}
