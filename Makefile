# Everything a person or a machine does to this repository. `make` alone explains itself.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# pytest processes; the real engines that the tests start take memory and cores of their own.
WORKERS ?= 2
# How much of a cluster the tests on one get: api, control, node or pipelines (tests/cluster/README.md).
LEVEL ?= api
# Which of them; all where that is not said.
TESTS ?= tests/cluster
ARGS ?=
# For `make images`. The local one is made of Debian's packages: BASE=localhost/serinus-base:bookworm
BASE ?= docker.io/library/python:3.11-slim-bookworm
TAG ?= dev
UPGRADE ?=

# Where it is set, as in many container images, no process would keep what it compiled: each of the dozens that a demo
# or the tests start would compile Feast, MLflow and KFP anew, 8 CPU-seconds each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env demo test test-cluster test-images images bench-serving bench-rollout bench-operator lint format docs lock clean distclean

help: ## say what can be done
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

env: $(STAMP) ## build the environment in .venv: pinned, hashed, again only when the pins change

$(STAMP): requirements/install.sh requirements/uv.txt requirements/dev.txt pyproject.toml
	@PYTHON="$(PYTHON)" bash requirements/install.sh $(VENV)
	@touch $@

demo: env ## train, serve and replay real flights on this machine; prints a report
	@$(PY) examples/flights/demo.py $(ARGS)

bench-serving: env ## compare the serving path with its peers, all in one run; needs wrk (docs/performance.md)
	@$(PY) -m benchmarks.serving $(ARGS)

test: env ## run the tests that need no cluster (ARGS="-k name" for some of them)
	@mkdir -p build/reports
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile --junitxml=build/reports/tests.xml $(ARGS)

# What is served, trained and installed on a node, as far as `make images` has left it.
NODE_IMAGE = $(if $(filter node pipelines,$(LEVEL)),$(addprefix --image ,$(patsubst %/index.json,%,$(wildcard build/images/oci/index.json))))

test-cluster: env ## run the tests on a real Kubernetes: that of KUBECONFIG, or one made here (LEVEL=node: with pods; LEVEL=pipelines)
	@mkdir -p build/reports
	@$(PY) -m tests.cluster.tools
	@$(PY) -m tests.cluster.testbed --level $(LEVEL) run $(NODE_IMAGE) -- $(PY) -m pytest -n 0 --junitxml=build/reports/cluster.xml $(TESTS) $(ARGS)

test-images: env ## build the images, and test what is in them
	@BASE=$(BASE) TAG=$(TAG) LAYOUT=no bash tests/cluster/images/build.sh
	@BASE=$(BASE) TAG=$(TAG) $(PY) -m pytest -n 0 tests/images $(ARGS)

images: ## build the images with buildah, also into build/images/oci (BASE=an image to build on, TAG=dev)
	@BASE=$(BASE) TAG=$(TAG) bash tests/cluster/images/build.sh

bench-rollout: env ## compare how rollouts are decided: our policy, Flagger, Argo Rollouts, Wald's oracle (under 4 minutes)
	@$(PY) -m benchmarks.rollout $(ARGS)

bench-operator: env ## measure the operator with 2,000 ModelDeployments and 100 rollouts on a control plane (6 minutes)
	@$(PY) -m benchmarks.operator $(ARGS)

lint: env ## check style, format, types and the direction of imports
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: env ## write the code in the one format
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

docs: env ## generate docs/reference and manifests/base/crds from the code
	@$(PY) docs/generate.py

LOCK = $(VENV)/bin/uv pip compile --quiet $(UPGRADE) --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links
lock: env ## pin the dependencies of pyproject.toml again (UPGRADE=--upgrade for newer ones)
	@export UV_CUSTOM_COMPILE_COMMAND="make lock"; \
	$(LOCK) pyproject.toml --all-extras -o requirements/dev.txt && \
	for extra in common train serve operator; do \
		$(LOCK) pyproject.toml --extra $$extra -c requirements/dev.txt -o requirements/$$extra.txt || exit 1; \
	done && echo hatchling | $(LOCK) - -c requirements/dev.txt -o requirements/build.txt

clean: ## remove what builds, tests and runs of the examples left behind, but not .venv
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find examples -maxdepth 2 -name .serinus -exec sh -c 'test -e "$$1/run/supervisord.pid" && \
		echo "$$1 is in use: run serinus down first" || rm -rf "$$1"' _ {} \;
	@find src tests examples docs components pipelines serving benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove .venv too
	@rm -rf $(VENV)
