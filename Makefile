# `make` alone lists the targets.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml | head -1)
# An example, as in deploy/manifests/kustomization.yaml: no image is published yet, and example.com is reserved for examples.
IMAGE ?= registry.example.com/linkerd-gate:$(VERSION)
IMAGE_FILE ?= target/image/linkerd-gate.tar
# The tests' images have quick-release.
PROFILE ?= release
CACHE := $(HOME)/.cache/linkerd-gate
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(CACHE)/tools/cargo-deny/bin/cargo-deny
MDBOOK_VERSION := 0.5.4
MDBOOK := $(CACHE)/tools/mdbook/bin/mdbook

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: demo
demo: ## Play a cluster boot without and with the gate: real processes, no cluster, a table and a picture
	cargo build --locked --package linkerd-gate --package cluster-boot --bins
	@"$${CARGO_TARGET_DIR:-target}/debug/cluster-boot"

.PHONY: test
test: lint ## Run every check and every test, on genuine Kubernetes parts that it fetches and builds (first time: about an hour)
	cargo test --locked --workspace

# Tests that need neither root nor a part of Kubernetes.
CHECKED := layers words book reference corpus foreign_bytes cluster_api cluster_api_repair cluster_manual_override cluster_held_pod cluster_uninstall manifests serve

.PHONY: check
check: ## Check format and lints, run unit tests and the scripted API server; no root, no Kubernetes (under 3 min, once built)
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	cargo test --locked --quiet --package linkerd-gate --lib $(CHECKED:%=--test %)

# SEEDS=20000, for instance.
.PHONY: simulate
simulate: ## Play the simulation with a million seeds (about an hour on two cores)
	LINKERD_GATE_SIMULATION_SEEDS="$${SEEDS:-1000000}" cargo test --locked --package linkerd-gate-simulation whatever_befalls -- --nocapture

.PHONY: exhaustive
exhaustive: ## Visit every state of a small cluster with one to three faults, and show that none waits for ever (about 15 minutes of CPU)
	LINKERD_GATE_EXHAUSTIVE=full cargo test --locked --package linkerd-gate-simulation --test exhaustive -- --nocapture

# FILES="src/decide/repair/plan.rs": which of its lines nothing runs.
.PHONY: coverage
coverage: ## Measure which lines of src/decide and src/linkerd are run by unit tests, simulation and the search of every state
	tests/simulation/coverage $${FILES:-}

# NAMES="proof-for-ever breaker-never-opens", SEEDS=2000
.PHONY: mutations
mutations: ## Break one rule of the core after the other, in a copy, and show which seed, state or unit test sees it (about 30 min)
	tests/simulation/mutations/run $${NAMES:-}

.PHONY: playground
playground: ## Open a shell in a genuine cluster of two nodes with linkerd-gate, a shop, and commands to cut the power (Linux, root)
	LINKERD_GATE_PLAYGROUND=shell cargo test --locked --quiet --package linkerd-gate --test boot

# OUTAGES="3 17", MODES="without auto": some of them.
.PHONY: campaign
campaign: ## Play 32 outages on two genuine nodes, with each admission and without us, and print a table (Linux, root; about 2.5 hours)
	LINKERD_GATE_CAMPAIGN="$${OUTAGES:-all}" LINKERD_GATE_CAMPAIGN_MODES="$${MODES:-without off refuse auto}" \
	  cargo test --locked --quiet --package linkerd-gate --test boot

# SOAK=10m, for instance.
.PHONY: soak
soak: ## Create and delete owners and boot nodes for an hour on kwok, print the memory of controller and prover, and fail if it grows
	LINKERD_GATE_TESTS_SOAK="$${SOAK:-1h}" cargo test --locked --package linkerd-gate --test controller soak -- --nocapture

# FUZZ=10m, for instance: so long for each property.
.PHONY: fuzz
fuzz: ## Break what others write (environment, objects, annotations, manifests) for an hour a property; a case that fails is kept
	LINKERD_GATE_TESTS_FUZZ="$${FUZZ:-1h}" cargo test --locked --package linkerd-gate --test foreign_bytes -- --nocapture

# BENCH="--quick" (3 min, what CI compares), "--json", "--alone", "--only holding", "--page docs/figures.md", …
.PHONY: bench
bench: ## Measure size, memory, CPU and latencies of waits and agents beside kubectl wait and initium, in one table (about 45 min)
	@cargo run --locked --quiet --package figures -- $(BENCH)

.PHONY: image
image: ## Build the container image without a container engine, for `docker load` or `ctr images import` (IMAGE=NAME:TAG)
	@mkdir -p $(dir $(IMAGE_FILE))
	programs="$$(cargo run --locked --quiet --package linkerd-gate-kit --bin kit -- static --profile $(PROFILE))" \
	&& cargo run --locked --quiet --package linkerd-gate-kit --bin kit -- image \
	  --program "/gate-wait=$$programs/gate-wait" --program "/linkerd-gate=$$programs/linkerd-gate" \
	  --tag $(IMAGE) --output $(IMAGE_FILE) --entrypoint /gate-wait --user 2102:2102 \
	  --label "org.opencontainers.image.title=linkerd-gate" \
	  --label "org.opencontainers.image.description=Keeps Kubernetes workloads from starting outside the Linkerd mesh" \
	  --label "org.opencontainers.image.licenses=Apache-2.0" \
	  --label "org.opencontainers.image.version=$(VERSION)" \
	  --label "org.opencontainers.image.revision=$(shell git rev-parse HEAD 2>/dev/null || echo unknown)"

# IMAGE's tag is left out: the version is the tag. CI adds the programs, checksums, SBOM and signatures.
.PHONY: release-files
release-files: ## Write install*.yaml, the packaged chart and the notes of a release into target/release-files (IMAGE=NAME)
	cargo build --locked --quiet --package linkerd-gate --bin linkerd-gate
	.github/release/files.sh "$${CARGO_TARGET_DIR:-target}/debug/linkerd-gate" \
	  "$$(cargo run --locked --quiet --package linkerd-gate-kit --bin kit -- find helm)" $(VERSION) $(IMAGE:%:$(VERSION)=%) target/release-files

.PHONY: workflows
workflows: ## Lint the workflows of .github with actionlint
	"$$(cargo run --locked --quiet --package linkerd-gate-kit --bin kit -- find actionlint)" -shellcheck= -pyflakes=

.PHONY: lint
lint: $(CARGO_DENY) ## Check format, lints, licences, banned crates and documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	$(CARGO_DENY) --locked check --hide-inclusion-graph bans licenses sources
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

.PHONY: docs
docs: ## Write the reference pages from the tables in the source
	UPDATE_DOCS=1 cargo test --locked --quiet --test manifests --test book --test chart is_the_table

# CI builds it in a separate job: mdBook takes minutes to build.
.PHONY: book
book: $(MDBOOK) ## Build the book of docs/ into target/book (first time: builds mdBook, about 4 minutes)
	$(MDBOOK) build

# The pages that tests hold: light, dark, and 375 px wide. Chromium is Debian's package of that name; CI does not need it.
CHROMIUM ?= $(shell command -v chromium chromium-browser google-chrome | head -1)
PAGES := $(wildcard src/report/tests/golden/*.html)

.PHONY: report-pictures
report-pictures: ## Draw the pages of the boot report into target/pictures: light, dark, phone, and the one in docs (needs Chromium)
	@test -n "$(CHROMIUM)" || { echo "no Chromium here: install it, or set CHROMIUM=FILE" >&2; exit 1; }
	@mkdir -p target/pictures
	@for page in $(PAGES); do \
	  name=$$(basename $$page .html); \
	  echo "<!doctype html><body style=\"margin:0\"><iframe src=\"file://$$PWD/$$page\" width=375 height=4000 style=\"border:0\"></iframe>" > target/pictures/phone.html; \
	  draw() { "$(CHROMIUM)" --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking \
	    --user-data-dir=target/pictures/profile --allow-file-access-from-files --screenshot="target/pictures/$$name-$$1.png" "$${@:3}" "$$2" 2>/dev/null; }; \
	  draw light "file://$$PWD/$$page" --window-size=1200,2200 --blink-settings=preferredColorScheme=1; \
	  draw dark "file://$$PWD/$$page" --window-size=1200,2200 --blink-settings=preferredColorScheme=0; \
	  draw phone "file://$$PWD/target/pictures/phone.html" --window-size=800,4000 --blink-settings=preferredColorScheme=1; \
	  echo "target/pictures/$$name-{light,dark,phone}.png"; \
	  if [ $$name = power-cut ]; then draw page "file://$$PWD/$$page" --window-size=1080,880 --blink-settings=preferredColorScheme=1; fi; \
	done
	@mv target/pictures/power-cut-page.png docs/pictures/report.png
	@rm -rf target/pictures/profile target/pictures/phone.html

.PHONY: manifests
manifests: ## Render deploy/manifests from deploy/chart
	UPDATE_MANIFESTS=1 cargo test --locked --quiet --test chart the_manifests_are_what

# Advisories need the advisory database, which not every machine can reach: the workflow checks them.
.PHONY: advisories
advisories: $(CARGO_DENY) ## Check dependencies for advisories (fetches the RustSec database)
	$(CARGO_DENY) --locked check advisories

$(CARGO_DENY):
	@echo "building cargo-deny $(CARGO_DENY_VERSION), once (about 5 minutes)" >&2
	cargo install --locked --quiet cargo-deny --version $(CARGO_DENY_VERSION) --root $(CACHE)/tools/cargo-deny

$(MDBOOK):
	@echo "building mdBook $(MDBOOK_VERSION), once (about 4 minutes)" >&2
	cargo install --locked --quiet mdbook --version $(MDBOOK_VERSION) --no-default-features --features search --root $(CACHE)/tools/mdbook
