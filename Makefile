# Everything that a person or CI runs. Each target first sees to what it needs on this machine
# (.ci/setup.sh). CARGO_TARGET_DIR is honoured.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-long bench release deny clean

# Where rustup puts cargo, and where Debian puts nginx: not on everyone's path.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CARGO_BUILD_TARGET_DIR),target)

# $(call step,NAME,COMMAND): runs the command, says how long it took.
define step
@printf '\n==> %s\n' '$(1)'; \
if $(2); then printf '<== %s: %d s\n' '$(1)' "$$SECONDS"; \
else printf '<== %s FAILED after %d s\n' '$(1)' "$$SECONDS" >&2; exit 1; fi
endef

RUN_TESTS = \
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked; \
	else printf 'cargo-nextest is not installed (cargo install cargo-nextest --locked): cargo test runs the tests instead.\n'; \
		cargo test --locked --no-fail-fast --lib --bins --tests; fi

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## build, then a device's whole tour on this machine
	@bash .ci/setup.sh demo
	@printf 'Building. The first time compiles BoringSSL too: some minutes.\n'
	@cargo build --locked --bin portcullis
	@'$(TARGET_DIR)/debug/portcullis' demo

# The tests come last, so that a run ends with their count.
test: ## format, lints, documentation tests, tests
	@bash .ci/setup.sh test
	$(call step,format,cargo fmt --check)
	$(call step,clippy,cargo clippy --locked --all-targets -- -D warnings)
	$(call step,documentation tests,cargo test --locked --doc)
	$(call step,tests,{ $(RUN_TESTS); })

test-long: export PORTCULLIS_LONG := 1
test-long: export NEXTEST_PROFILE := long
test-long: test ## the same with floods of a minute and sizes in the millions

bench: ## micro-benchmarks (criterion)
	@bash .ci/setup.sh build
	@cargo bench --locked --bench micro -- $(BENCH)

release: ## the optimised binary: target/release/portcullis
	@bash .ci/setup.sh build
	@cargo build --locked --release --bin portcullis

deny: ## licences, bans and advisories of the dependencies (cargo-deny)
	@cargo deny --version >/dev/null 2>&1 || { printf 'cargo-deny is not installed: cargo install cargo-deny --locked\n' >&2; exit 1; }
	@cargo deny --locked check --config .cargo/deny.toml

clean: ## delete what was built
	@cargo clean
