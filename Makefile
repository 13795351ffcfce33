# Baystream: the doors of this tree. `make demo` and `make test` need nothing
# but Debian 12, Go and make; the rest is installed by scripts/setup.

SHELL   := /bin/bash
GO      ?= go
BUILD   := build
IMAGE   := $(BUILD)/image
export GOFLAGS := -buildvcs=false

.PHONY: help setup build image demo demo-pair test test-unit sim test-vm test-long lint bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup: ## install what is needed (apt), once
	@scripts/setup

build: setup ## the programs, into build/bin
	@echo "== building programs"
	@mkdir -p $(BUILD)/bin
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(BUILD)/bin/ ./cmd/...

image: build ## the bootable image, into build/image, with the size of each part
	@$(BUILD)/bin/mkimage -o $(IMAGE) -cache $(BUILD)/cache

demo: image ## the main job in a virtual frame; BUNDLE=path.zip deploys a published bundle instead
	@$(BUILD)/bin/vframe demo -image $(IMAGE) -cache $(BUILD)/cache $(if $(BUNDLE),-bundle "$(BUNDLE)")

demo-pair: image ## two appliances and a witness: what two servers feel when the active one dies
	@$(BUILD)/bin/vframe demo -pair -image $(IMAGE) -cache $(BUILD)/cache

test: image ## every test that this machine can run
	@scripts/test

test-unit: ## fast, no root, no VM
	@$(GO) test -short ./...

sim: ## the pair's simulator: SEEDS=100000 runs that many, SEED=7 replays one with its trace
	@$(GO) test -count=1 -timeout 0 ./daemon/pair/sim -run '^TestSeeds$$' -v -seeds $(or $(SEEDS),10000) $(if $(SEED),-seed $(SEED))

test-vm: image ## the tests in virtual frames only
	@BAYSTREAM_IMAGE=$(abspath $(IMAGE)) $(GO) test -count=1 -timeout 40m -v -run 'Frame|InVM' ./qemu/... ./daemon/storage/...

test-long: image ## a pair of appliances in three frames, which make test has no time for
	@BAYSTREAM_LONG=1 BAYSTREAM_IMAGE=$(abspath $(IMAGE)) BAYSTREAM_CACHE=$(abspath $(BUILD)/cache) $(GO) test -count=1 -timeout 4h -v -run '^TestFramePair$$' ./qemu/scenario

lint: setup ## gofmt, go vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt: $$out"; exit 1; fi
	@$(GO) vet ./...
	@$(GO) tool staticcheck ./...
	@echo "lint: ok"

bench: image ## benchmarks beside their peers, as a table and JSON
	@scripts/bench

clean:
	rm -rf $(BUILD)
