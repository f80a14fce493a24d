# `make help` lists the targets. Everything set-up fetches lives in .cache/, everything built in .build/.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A GGUF file or a folder with safetensors; set it to serve any other model: `make demo MODEL=path`.
MODEL ?=
export MODEL

.PHONY: help setup build demo test test-rdma check sanitize simulate verify chaos bench bench-rdma bench-glm5 bench-long docs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (apt, pip into .cache/venv) and fetch the model into .cache/models
	@scripts/setup.sh

build: ## set up, then build the release executables into .build/release
	@scripts/setup.sh packages
	swift build -c release

demo: ## the bundled GLM-5 model with speculation, then SmolLM2, through router + prefill + decode (KEEP=1: stays)
	@scripts/setup.sh packages model
	swift build -c release
	@scripts/demo.py

test: ## every test: Swift (release build), cluster of real processes, openai client, lint, sanitizers
	@scripts/setup.sh
	@scripts/test.sh

test-rdma: ## what needs an RDMA device, on Soft-RoCE in a guest kernel (BATON_RDMA_HOST=address: on this machine's own)
	@scripts/setup.sh packages $(if $(BATON_RDMA_HOST),,rdma)
	swift build -c release --build-tests
	@scripts/test_rdma.sh

check: ## the quick checks: formatting and tidy rules
	@scripts/check.sh

simulate: ## clusters of the shipping state machines through simulated faults, and every rule broken (SEEDS=5000)
	@scripts/simulate.sh

# SECONDS is a variable of bash itself, which counts on from what it is given: it must not come from the environment.
chaos: ## a cluster under kills, pauses, cut paths and cancels for SECONDS=600; every answer checked (TRANSPORT=rdma)
	@scripts/setup.sh packages model $(if $(filter rdma,$(TRANSPORT)),$(if $(BATON_RDMA_HOST),,rdma))
	swift build -c release
	@$(if $(filter rdma,$(TRANSPORT)),,Tests/chaos/paused_sender.py && Tests/chaos/hung_engine.py)
	@Tests/chaos/chaos.py --seconds $(or $(SECONDS),600)

sanitize: ## parsers, lanes and whole nodes with gRPC under the address and thread sanitizers (half an hour)
	@scripts/setup.sh packages
	@scripts/sanitize.sh address OrderedJSON ModelFormat Tokenization API Handoff Transport Cores ControlPlane Routing Node
	@scripts/sanitize.sh thread Handoff Transport Cores ControlPlane Routing Node

verify: ## the model of the handoff contract, searched exhaustively, with each rule removed in turn (FULL=1: more)
	@scripts/setup.sh verify
	@scripts/verify.py $(if $(FULL),--full)

bench: ## tokens/s beside llama.cpp, KV handoff beside a plain socket, router overhead; one table
	@scripts/setup.sh packages model bench
	swift build -c release
	@Benchmarks/run.py

bench-glm5: ## GLM-5: speed of both phases, time by part, speculation's gain; beside transformers if that is installed
	@scripts/setup.sh packages
	swift build -c release
	@Benchmarks/glm5.py

bench-long: ## prompts of up to 200,000 tokens through a cluster: cost per token, overlap, memory, leaving half-way (10 minutes)
	@scripts/setup.sh packages
	swift build -c release
	@Benchmarks/long_context.py

bench-rdma: ## KV handoff over RDMA beside raw verbs, perftest and our TCP lanes, in a guest (BATON_RDMA_HOST=address: here)
	@scripts/setup.sh packages $(if $(BATON_RDMA_HOST),,rdma)
	swift build -c release
	@Benchmarks/rdma/run.py

docs: ## API reference of the library modules (DocC) into .build-docs/
	@scripts/docs.sh

clean: ## remove what was built; CACHE=1 also removes the fetched model, venv and llama.cpp
	rm -rf .build .build-* $(if $(CACHE),.cache)
