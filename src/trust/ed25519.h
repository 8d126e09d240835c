// Ed25519 in certificates and CRLs (RFC 8410).
#pragma once

#include "pki/signature_algorithm.h"

BSSL_NAMESPACE_BEGIN

// The value of SignatureAlgorithm that libpki has not. It lists its own from 0 on.
inline constexpr auto kEd25519 = static_cast<SignatureAlgorithm>(-1);

BSSL_NAMESPACE_END
