# Everything happens inside this folder: .venv and .tools are made by the first command and used again by the next.
# `make demo` and `make test` are all that is needed; each sets everything up first.

PY := $(shell command -v python3 || command -v python3.11 || command -v python)
BIN := .venv/bin
PYTEST_ARGS ?=

.PHONY: help setup setup-flink demo test check fix faults fuzz bench bench-compare docs ci lock clean

help:           ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

setup:          ## .venv, Kafka jars and Prism; a second run does nothing
	@if [ -z "$(PY)" ]; then echo 'python 3.11 is needed for everything and was not found; install it with `apt-get install python3.11 python3.11-venv`; nothing works without it' >&2; exit 69; fi
	@$(PY) deploy/bootstrap.py

setup-flink: setup ## the jars of a Flink cluster, 150 MB; `tidegate up --engine flink` and the tests need them
	@$(PY) deploy/bootstrap.py --only flink

demo: setup     ## the main job on real recorded data, about a minute (DEMO_SECONDS=60)
	@$(BIN)/tidegate demo $(DEMO_ARGS)

test: setup-flink ## every test, with the real broker, Prism and Flink (PYTEST_ARGS='-k codec')
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: setup    ## format, lint, types, imports; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup      ## what check can repair by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

faults: setup   ## the fault suite: kills, power cuts, cut links (FAULTS_ARGS='--minutes 60'); see docs/faults.md
	@$(BIN)/python -m tests.faults run $(FAULTS_ARGS)

fuzz: setup     ## every parser of what comes from outside, by atheris, a minute each (FUZZ_ARGS='--seconds 600 record')
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet 'atheris>=3.0,<4'
	@$(BIN)/python -m tests.hostile.fuzz $(FUZZ_ARGS)

bench: setup    ## the figures of tests/bench, on an otherwise quiet machine; kept in docs/bench-history.jsonl
	@$(BIN)/python -m tests.bench $(BENCHES)

bench-compare: setup ## what got slower since the commit measured before, or since BASE=commit; exits with 1
	@$(BIN)/python -m tests.bench compare $(BASE)

docs: setup     ## docs/reference anew, from the code it describes
	@$(BIN)/python -m deploy.reference

bench-peers: setup  ## the yardstick job beside Quix Streams and Bytewax, each in its own environment (PEERS='--rounds 1')
	@$(BIN)/python -m tests.bench.peers $(PEERS)

ci: check test  ## what .ci/run calls

lock:           ## requirements/*.txt from pyproject.toml (needs uv)
	@deploy/lock.sh

clean:          ## stop the local stack and remove what the commands made; keeps .venv and .tools
	@if [ -x $(BIN)/tidegate ]; then $(BIN)/tidegate down; fi
	rm -rf .tidegate build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
