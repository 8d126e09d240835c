# A toolchain file of one line: the native toolchain, and the prefix of BoringSSL's symbols.
# Never `bssl`: that is the name of BoringSSL's own C++ namespace.
set(BORINGSSL_PREFIX bor CACHE STRING "" FORCE)
