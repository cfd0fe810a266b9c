# Hutch. Two commands matter: `make run` and `make test`; `make help` lists the rest.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-print-directory

# Where `make run` keeps everything, and where it listens.
DATA   ?= $(CURDIR)/.hutch-data
LISTEN ?= 127.0.0.1:8080
# More flags for `hutch serve`, and for `go test`.
SERVE_FLAGS ?=
TEST_FLAGS  ?=
# What `make test` runs; all of it unless you say otherwise.
PKGS   ?= ./...

GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse --verify -q HEAD 2>/dev/null || echo unknown)

# The same sources give the same bytes, whatever the commit: the runtime and the
# agent are named by their digest, and a new name means unpacking them anew.
BUILD   := CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath
CARRIED := GOOS=linux $(BUILD) -ldflags='-s -w'
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# Everything the binary is made of. Nothing newer than the binary: nothing to do.
SOURCES := $(shell find . \( -path ./.git -o -path ./bin -o -path ./docs -o -path ./test -o -path ./tools \
	-o -path ./internal/payload/files -o -path ./.ci -o -name '.hutch-data*' -o -name node_modules \) -prune \
	-o -type f ! -name '*_test.go' ! -name '*.md' ! -path '*/testdata/*' -print)

# Written only when it changes, so that a new commit links the binary again.
STAMP := bin/.stamp
$(shell mkdir -p bin; echo '$(VERSION) $(COMMIT)' | cmp -s - $(STAMP) || echo '$(VERSION) $(COMMIT)' >$(STAMP))

.PHONY: help
help: ## Say what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  DATA=$(DATA)  LISTEN=$(LISTEN)"

.PHONY: build
build: bin/hutch ## Build bin/hutch, the one binary.

bin/hutch: $(SOURCES) $(STAMP) | go
	@$(CARRIED) -o bin/carried/ ./cmd/runsc ./cmd/hutch-agent
	@$(GO) run -buildvcs=false ./internal/payload/pack internal/payload/files bin/carried/runsc bin/carried/hutch-agent
	@$(BUILD) -ldflags="$(LDFLAGS) -X main.gvisorVersion=$$($(GO) list -m -f '{{.Version}}' gvisor.dev/gvisor)" -o bin/hutch ./cmd/hutch
	@touch bin/hutch
	@echo "built bin/hutch $(VERSION)"

.PHONY: run
run: root prepared ## Prepare the default templates and start the server. Ctrl-C ends it; sandboxes live on.
	@exec bin/hutch serve --listen '$(LISTEN)' --data '$(DATA)' $(SERVE_FLAGS)

.PHONY: test
test: build fmt lint prepared ## Everything: format, vet, lint, import rules, all tests with -race, real gVisor, the SDKs.
	@$(GO) vet ./...
	@for system in darwin windows; do GOOS=$$system $(BUILD) -o /dev/null ./cmd/hutch; done
	@code=0; \
	$(GOTEST) $$($(GO) list $(PKGS) | grep -Ev '$(WHOLE)') || code=1; \
	whole=$$($(GO) list $(PKGS) | grep -E '$(WHOLE)' || true); \
	[ -z "$$whole" ] || HUTCH_TEST_DATA='$(DATA)' $(GOTEST) -p=1 $$whole || code=1; \
	exit $$code

# Tests of the whole product run alone, one package at a time: they keep time.
WHOLE  := /test/(conformance|e2e)
GOTEST := $(TOOL) gotestsum --format=standard-quiet -- -race -count=1 -timeout=30m $(TEST_FLAGS)

# The default templates, where sandboxes can run; without them tests say SKIP.
.PHONY: prepared
prepared: bin/hutch
	@if [ "$$(uname)" = Linux ] && [ "$$(id -u)" = 0 ]; then \
	  $(MAKE) packages FOR_TESTS=1 && bin/hutch template prepare --data '$(DATA)'; \
	else echo "SKIP: tests with real sandboxes need Linux and root"; fi

.PHONY: fmt
fmt: | go ## Fail if a Go file is not formatted.
	@bad=$$(find . \( -path ./.git -o -name node_modules -o -name '.hutch-data*' \) -prune -o -name '*.go' -print | xargs -r gofmt -l); \
	if [ -n "$$bad" ]; then echo "not formatted (run gofmt -w):"; echo "$$bad"; exit 1; fi

.PHONY: lint
lint: | go ## Run golangci-lint with .golangci.yml.
	@$(TOOL) golangci-lint run --timeout=10m

.PHONY: vuln
vuln: | go ## Check for known vulnerabilities (needs https://vuln.go.dev).
	@$(TOOL) govulncheck ./...

.PHONY: bench
bench: root prepared ## Measure create, exec, files and kill beside bare gVisor, and print the figures.
	@$(GO) run -buildvcs=false ./test/bench

.PHONY: clean
clean: ## Remove what was built. Data in $(DATA) stays: `hutch kill --all` first, then delete it yourself.
	@rm -rf bin
	@find internal/payload/files -type f ! -name .gitignore -delete

# What a machine needs beyond Go. Only what is missing is installed, and only
# where that is safe to do unasked: as root, with apt.
.PHONY: packages
packages:
	@need=(); \
	command -v debootstrap >/dev/null || [ -x /usr/sbin/debootstrap ] || need+=(debootstrap); \
	[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || need+=(debian-archive-keyring); \
	[ -s /etc/ssl/certs/ca-certificates.crt ] || [ -s /etc/pki/tls/certs/ca-bundle.crt ] || need+=(ca-certificates); \
	if [ -n '$(FOR_TESTS)' ]; then \
	  command -v mkfs.erofs >/dev/null || need+=(erofs-utils); \
	  command -v nft >/dev/null || need+=(nftables); \
	  command -v curl >/dev/null || need+=(curl); \
	fi; \
	if [ $${#need[@]} -gt 0 ]; then \
	  if ! command -v apt-get >/dev/null; then \
	    echo "missing: $${need[*]}. Install them with your package manager, then run this again." >&2; exit 1; fi; \
	  echo "installing: $${need[*]}"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${need[@]}" >/dev/null; \
	fi

.PHONY: root
root:
	@if [ "$$(id -u)" != 0 ]; then echo "this makes namespaces and cgroups, so it needs root: sudo make $(MAKECMDGOALS)" >&2; exit 1; fi

.PHONY: go
go:
	@if ! command -v $(GO) >/dev/null; then \
	  echo "Go is missing. Get it from https://go.dev/dl (1.21 or newer fetches the version in go.mod by itself)." >&2; exit 1; fi
