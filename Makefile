# Everything that CI does has a target here; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GOLANGCI_LINT := v2.15.0
GOFUMPT       := v0.12.0
GOVULNCHECK   := v1.9.0

BIN     := $(CURDIR)/.cache/bin
BUILD   := $(CURDIR)/build
PLUGIN  := $(BUILD)/libOrthancDicomWebOAuth.so
BINARY  := $(BUILD)/orthanc-oauth
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X orthanc-oauth/internal/node.Version=$(VERSION)

BACKEND ?= gossip
FUZZTIME ?= 30s

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+( [a-z-]+)*:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: deps build ## Three real Orthancs, one token (BACKEND=gossip, redis or memory)
	$(BINARY) demo --orthanc --plugin $(PLUGIN) --backend $(BACKEND)

.PHONY: test
test: deps lint build ## Everything: race detector, real Orthanc, real Redis, vet, lint
	ORTHANC_OAUTH_REQUIRE_REAL=1 ORTHANC_OAUTH_PLUGIN=$(PLUGIN) ORTHANC_OAUTH_BINARY=$(BINARY) \
		go test -race -timeout 15m ./...
	ORTHANC_OAUTH_REQUIRE_REAL=1 ORTHANC_OAUTH_PLUGIN=$(PLUGIN) go test -race -tags orthanc -timeout 5m ./plugin

.PHONY: test-go
test-go: ## The pure-Go part only: no package, no root
	go build ./... && go test ./...

.PHONY: build
build: $(PLUGIN) $(BINARY) ## Build the plugin and the binary into build/

# Go's own cache decides what is stale, so both are always asked for.
.PHONY: $(PLUGIN) $(BINARY)
$(PLUGIN):
	CGO_ENABLED=1 go build -tags orthanc -buildmode=c-shared -trimpath -ldflags "$(LDFLAGS)" -o $@ ./plugin
	@rm -f $(basename $@).h
	@for s in Initialize Finalize GetName GetVersion; do \
		nm -D $@ | grep -q " T OrthancPlugin$$s$$" || { echo "$@ lacks OrthancPlugin$$s"; exit 1; }; done
$(BINARY):
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o $@ ./cmd/orthanc-oauth

.PHONY: deps
deps: ## Install what is missing from Debian's packages
	@scripts/install-deps

.PHONY: lint
lint: $(BIN)/golangci-lint-$(GOLANGCI_LINT) $(BIN)/gofumpt-$(GOFUMPT) ## gofumpt, vet, golangci-lint
	@out=$$($(BIN)/gofumpt-$(GOFUMPT) -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofumpt would change:"; echo "$$out"; exit 1; }
	go vet ./...
	go vet -tags orthanc ./plugin
	go vet -tags chaos ./chaos/...
	$(BIN)/golangci-lint-$(GOLANGCI_LINT) run ./...

.PHONY: vuln
vuln: $(BIN)/govulncheck-$(GOVULNCHECK) ## Known vulnerabilities in what is called (needs the vulnerability database)
	$(BIN)/govulncheck-$(GOVULNCHECK) ./...

.PHONY: bench
bench: ## The figures of the hot path and the data path, as ratios within one run
	go test -run '^$$' -bench . -benchmem -cpu 1,2 ./tokens
	go test -run '^$$' -bench ColdFleet -benchtime 20x ./backend/gossip
	go test -run '^$$' -bench Quiet -benchtime 1x ./backend/gossip
	go test -run '^$$' -bench Miss ./backend/redis
	go test -run '^$$' -bench 'ColdFleet|TakeOver' -benchtime 10x ./backend/redis
	go test -run '^$$' -bench STOW -benchtime 1x ./internal/proxy

# The long suites carry the build tag chaos: minutes each, and judged by load.
.PHONY: sim
sim: ## Faults from seeds in virtual time, 10,000 of them; scripts; the judge judged
	go test -tags chaos ./chaos/sim -count=1 -v -timeout 12m -run 'Scripts|Crash|Planted|Figures' -sim.step 1ms
	go test -tags chaos ./chaos/sim -count=1 -v -timeout 12m -run Random -sim.faults 10000 -sim.time 10m -sim.first 1

.PHONY: sim-slice
sim-slice: ## The scripts and a minute of seeds: what CI runs
	go test -tags chaos ./chaos/sim -count=1 -v -timeout 8m -run 'Scripts|Crash|Random' -sim.time 60s -sim.first 1

.PHONY: chaos-processes
chaos-processes: $(BINARY) ## 500 faults on real processes in network namespaces, within 40 min (needs root)
	ORTHANC_OAUTH_REQUIRE_REAL=1 ORTHANC_OAUTH_BINARY=$(BINARY) \
		go test -tags chaos -v -count=1 -timeout 50m ./chaos/processes -chaos.faults 500

.PHONY: chaos-processes-slice
chaos-processes-slice: $(BINARY) ## Three minutes of the same: what CI runs
	ORTHANC_OAUTH_REQUIRE_REAL=1 ORTHANC_OAUTH_BINARY=$(BINARY) \
		go test -tags chaos -v -count=1 -timeout 10m ./chaos/processes -chaos.duration 2m

.PHONY: chaos-hostile
chaos-hostile: $(BINARY) ## Strangers, liars and eavesdroppers against real processes, measured
	ORTHANC_OAUTH_BINARY=$(BINARY) go test -tags chaos -v -count=1 ./chaos/hostile

.PHONY: chaos-base
chaos-base: ## The image debian:bookworm-slim, by debootstrap where no registry gives it
	scripts/with-docker scripts/chaos-base

# What a rolling upgrade comes from: the last version that others have had.
BEFORE ?= b2184be
.PHONY: before
before: ## The version before this one, into build/before
	@scripts/before $(BEFORE)

# A run of one backend after the other: each takes about eight minutes.
CHAOS_FAULTS ?= 64
.PHONY: chaos
chaos: export ORTHANC_OAUTH_REQUIRE_BEFORE = 1
chaos: deps build before ## Real Orthancs in containers, all three backends, CHAOS_FAULTS each; writes docs/chaos.md (needs root)
	scripts/with-docker $(MAKE) --no-print-directory --keep-going chaos-base chaos-gossip chaos-redis chaos-memory

.PHONY: chaos-gossip chaos-redis chaos-memory
chaos-gossip chaos-redis chaos-memory: chaos-%: ## One backend of make chaos, with an engine that listens
	ORTHANC_OAUTH_REQUIRE_REAL=1 go test -tags chaos -v -count=1 -timeout 40m ./chaos/containers \
		-chaos.backend $* -chaos.faults $(CHAOS_FAULTS) -chaos.quiet 60s -chaos.docs $(CURDIR)/docs

.PHONY: chaos-slice
chaos-slice: deps build before ## Four minutes of gossip in containers, with an engine that is started if need be
	scripts/with-docker $(MAKE) --no-print-directory chaos-base chaos-slice-run

.PHONY: chaos-slice-run
chaos-slice-run:
	ORTHANC_OAUTH_REQUIRE_REAL=1 go test -tags chaos -v -count=1 -timeout 15m ./chaos/containers

.PHONY: fuzz
fuzz: ## Every decoder a stranger or a peer can reach, FUZZTIME each
	@scripts/fuzz $(FUZZTIME)

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BUILD)

# Tools are built from source at a pinned version, apart from go.mod: their
# dependencies are not the product's.
define tool
$(BIN)/$(1)-$(2):
	@echo "building $(1) $(2)"
	@mkdir -p $(BIN) && tmp=$$$$(mktemp -d) && GOBIN=$$$$tmp GOFLAGS= go install $(3)@$(2) && mv $$$$tmp/$(1) $$@ && rmdir $$$$tmp
endef
$(eval $(call tool,golangci-lint,$(GOLANGCI_LINT),github.com/golangci/golangci-lint/v2/cmd/golangci-lint))
$(eval $(call tool,gofumpt,$(GOFUMPT),mvdan.cc/gofumpt))
$(eval $(call tool,govulncheck,$(GOVULNCHECK),golang.org/x/vuln/cmd/govulncheck))
