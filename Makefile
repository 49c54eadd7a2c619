.PHONY: help demo test check chart-check bench bench-postgres tools cluster cluster-down cluster-kubectl install uninstall deploy undeploy image build docs clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: tools ## protect, destroy and restore an application, and show it
	@cargo build --quiet --release --package windlass
	@bench/demo

test: tools ## prove all that can be proved on this machine
	@cargo run --quiet --package xtask -- test

check: ## formatting, lints, documents, forbidden dependencies
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	cargo run --quiet --package xtask -- docs --check
	cargo run --quiet --package xtask -- dependencies
	@if PATH="$(CURDIR)/.bench/bin:$$PATH" command -v helm >/dev/null && python3 -c 'import yaml' 2>/dev/null; then charts/check; else echo "helm or PyYAML is not installed: the charts were not checked"; fi
	@if command -v cargo-deny >/dev/null; then cargo deny check; else echo "cargo-deny is not installed: licences and advisories were not checked"; fi

chart-check: ## render the charts, and compare the operator's with config; needs helm, kubectl and PyYAML
	@charts/check

tools: ## install what the tests need
	@bench/install

bench: tools ## measure beside pg_dump, pg_restore, restic and kopia; writes docs/benchmarks.md
	@bench/install kopia
	@cargo build --quiet --release --package windlass
	@bench/compare --write

bench-postgres: tools ## measure base backups and the archive of WAL beside pg_basebackup, pgBackRest, barman-cloud and restic; writes docs/benchmarks.md
	@bench/install physical
	@cargo build --quiet --release --package windlass
	@bench/postgres --write
	@bench/wal --write

cluster: ## start a Kubernetes cluster for tests, of the real components; needs root
	@bench/install kubernetes
	@bench/cluster/cluster up

cluster-down: ## end it
	@bench/cluster/cluster down

cluster-kubectl: ## print the kubectl command line for it
	@bench/cluster/cluster kubectl

install: ## apply the definitions of the custom resources to the cluster that kubectl speaks to
	kubectl apply --kustomize config/crd

uninstall: ## delete the definitions, and with them every custom resource
	kubectl delete --ignore-not-found --kustomize config/crd

IMG ?= windlass:0.1.0

deploy: ## apply the operator; IMG names its image
	kubectl kustomize config/default | sed 's#windlass:0\.1\.0#$(IMG)#' | kubectl apply --filename -

undeploy: ## delete the operator; custom resources, and what was made for them, stay
	kubectl delete --ignore-not-found --kustomize config/default

image: ## write the operator's image as an OCI archive; needs helm: bench/install kubernetes
	cargo xtask image

build: ## build the release binary
	cargo build --release --package windlass
	install -m 755 "$$(ls -t $${CARGO_TARGET_DIR:-target}/*/release/windlass | head -n 1)" $${CARGO_TARGET_DIR:-target}/windlass

docs: ## write the generated references
	cargo run --quiet --package xtask -- docs

clean: ## remove what was built
	@bench/cluster/cluster down
	cargo clean
	rm -rf .bench
