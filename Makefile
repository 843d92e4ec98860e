# `make` lists the commands. Each installs what it needs, or says exactly what is missing.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# How many groups `make up` starts at least: a store that has more is started whole. Not read by the shell itself: there, GROUPS is something else.
GROUPS ?= 2
.PHONY: fuzz help up down clean check test test-upgrade test-browser soak hostile verify deny fix bench bench-growth bench-paths instructions image dist

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## Build and start the store, two groups at least, in Docker or as processes (GROUPS=1: one plain group; GROUPS=3: a third)
	@RAFTKV_GROUPS=$(GROUPS) scripts/up.sh

down: ## Stop it; the data stays
	@scripts/down.sh

clean: ## Stop it and delete its data
	@scripts/down.sh --data

check: ## The quick turn: form, lints, unit tests and one cluster test, in under three minutes after a build
	@scripts/check.sh

test: ## Every test: entrypoint, unit, cluster, faults, containers, the Python client
	@scripts/test.sh

test-upgrade: ## Old and new programs in one store, there and back (FROM=commit: the older version, built once)
	@FROM="$(FROM)" scripts/test-upgrade.sh

test-browser: ## Pages of other sites in Chromium against a local store: nothing changes (RECORD=1: keep the heads that it sends)
	@scripts/test-browser.sh $(if $(RECORD),--record)

soak: ## Random faults under load, with checks (MINUTES=10; SEED=n: the faults of the run that had it; FROM=n: from store n on)
	@MINUTES="$(MINUTES)" SEED="$(SEED)" FROM="$(FROM)" scripts/soak.sh

hostile: ## Hostile messages to every gRPC service of a live group (MINUTES=10; SEED=n: those of the run that had it)
	@MINUTES="$(MINUTES)" SEED="$(SEED)" scripts/hostile.sh

verify: ## Check form, lints, documentation and dependencies; changes nothing
	@scripts/verify.sh

deny: ## Check licences, sources, duplicates and known vulnerabilities of the dependencies (part of verify)
	@scripts/deny.sh

fix: ## Format the code and mend the lints that can be mended by machine
	@scripts/fix.sh

fuzz: ## Random input for every decoder of what comes over the wire or from the disk (FUZZ_SECONDS=60 each)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

bench: ## Measure against etcd, workload by workload: ratio, goal, pass or short (about twenty minutes)
	@scripts/bench.sh

bench-growth: ## Measure what grows: many keys, long load, catching up, groups (about half an hour; PARTS=keys,groups)
	@scripts/bench.sh --growth $(if $(PARTS),--parts $(PARTS))

bench-paths: ## Time the hot paths one by one: commands and answers, slots, applying, frames of the log (criterion)
	@scripts/bench-paths.sh

instructions: ## Count the instructions of the hot paths: none may take 5 % more than is committed
	@scripts/instructions.sh

image: ## Build the container image only
	@scripts/build-image.sh

dist: ## Build the programs as they are shipped, optimised across crates, into dist/
	@scripts/dist.sh
