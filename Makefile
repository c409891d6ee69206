# make demo    a cluster of three on this machine, before your eyes (ONCE=1: ends by itself; DCS=etcd3: with etcd as its store)
# make test    every test there is
# make check   everything CI checks besides; never writes to the tree
# make bench   the embedded store beside etcd, our agent beside Patroni (QUICK=1: one round of each; ONLY=stores, agents or
#              requests, those of idle agents to each store: that part alone; STORE="Kubernetes Endpoints": to that store alone)
# make conformance   the contract of a store on every store, as one table
# make fmt     formats

.PHONY: demo test check bench conformance fmt build
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# What tests could not run here, and why.
SKIPPED := $(abspath $(TARGET))/not-run.txt
# Failures are told in words; a backtrace of the harness adds nothing to them.
export RUST_LIB_BACKTRACE ?= 0

# The unoptimized build: it is there minutes earlier, and fast enough to watch.
demo: DCS ?= raft
demo:
	@scripts/install-deps run
	@$(if $(filter etcd3,$(DCS)),scripts/install-deps etcd)
	@scripts/install-deps build
	@$(CARGO) build --quiet -p agent -p tests --bins
	@$(TARGET)/debug/demo $(if $(ONCE),--once) --store $(DCS)

build:
	$(CARGO) build --workspace --bins --all-features

test:
	@scripts/install-deps test
	@rm -f $(SKIPPED)
	$(CARGO) build --workspace --bins --all-features
	@# What did not run is told at the end, however that comes.
	@trap 'if [ -s $(SKIPPED) ]; then sort -u $(SKIPPED); fi' EXIT; \
	QUORATE_TEST_SKIPPED=$(SKIPPED) $(CARGO) nextest run --workspace --all-features --no-fail-fast; \
	$(CARGO) test --workspace --all-features --doc --quiet

check:
	@scripts/install-deps check
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings
	@# With private items: the only readers are those who work on them.
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --workspace --all-features --no-deps --document-private-items --locked --quiet
	$(CARGO) deny --all-features check --hide-inclusion-graph bans licenses sources
	@# The advisories are worth knowing, but the machine that keeps them is not ours to depend on.
	@timeout 60 $(CARGO) deny --all-features check --hide-inclusion-graph advisories || echo "advisories: not clean, or not reachable (this does not fail the check)"
	scripts/check-paths

bench:
	@scripts/install-deps bench
	@$(CARGO) build --release --quiet -p agent -p tests --bins
	@$(TARGET)/release/bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(STORE),--store '$(STORE)')

conformance:
	@scripts/install-deps test
	@scripts/conformance

fmt:
	$(CARGO) fmt --all
