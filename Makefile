# `make demo` and `make test` install everything into .venv; they need Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

export PATH := $(PATH):/usr/sbin# servers such as Orthanc are there
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup programs demo test test-real lint build docs release release-lock reference bench chaos fuzz results attacks lock proto clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# torch first: in one step with the rest, the resolver may choose another build of it.
$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/pip || { echo "making $(VENV)"; $(PYTHON) tests/programs.py ensurepip; $(PYTHON) -m venv $(VENV); }
	@echo "installing what requirements.lock names (a few minutes the first time)"
	@$(PIP) install "$$(grep '^torch==' requirements.lock)"
	@$(PIP) install --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip --disable-pip-version-check check
	@touch $@

setup: $(READY) ## install everything into .venv

demo: $(READY) ## three synthetic hospitals train, index and ask; DATA=DIR: your own images
	@$(BIN)/ynet-lab demo $(if $(DATA),--data $(DATA))

# The tests' networks are tiny: with two threads they mostly wait for each other.
test test-real fuzz: export OMP_NUM_THREADS = 1

NO_SKIPS := $(if $(filter 0,$(SKIPS)),--no-skips)
programs: ## install the Debian packages that tests need, as root; otherwise print the command
	@$(PYTHON) tests/programs.py $(if $(NO_SKIPS),--all)

# Stories mostly wait for other processes, so two at once finish sooner on two cores.
JOBS ?= 2
test: programs $(READY) lint ## lint and run the tests, JOBS=2 at once; SKIPS=0: a skipped test fails
	@test -e ynet/search/_scan.so || $(BIN)/python hatch_build.py
	$(BIN)/python -m pytest -m "not real_data" --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(NO_SKIPS)

test-real: $(READY) ## run the tests that need the real images next to the repository
	$(BIN)/python -m pytest -m real_data $(NO_SKIPS)

lint: $(READY) ## run ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

build: $(READY) ## build source archive and wheel into dist/
	$(BIN)/python -m hatchling build -d dist

RELEASE_FLAGS := $(if $(KEY),--key $(KEY)) $(if $(ADVISORIES),--advisories $(ADVISORIES))
release: $(READY) ## make a signed offline release of this commit; KEY=FILE ADVISORIES=FILE
	@PYTHONPATH=deploy $(BIN)/python -m release $(RELEASE_FLAGS)

release-lock: $(READY) ## write the hashes of the wheels that a release brings
	@PYTHONPATH=deploy $(BIN)/python -m release --lock

reference: $(READY) ## update the pages of docs/reference that are made from the code
	$(BIN)/python deploy/reference.py

docs: $(READY) ## build the documentation as a site in site/; needs no network
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

bench: $(READY) ## run every benchmark; JSON goes to tests/benchmarks/results
	$(BIN)/python tests/benchmarks/round_overhead.py --out tests/benchmarks/results/round_overhead.json
	$(BIN)/python tests/benchmarks/model_fetch.py --out tests/benchmarks/results/model_fetch.json
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/encoder_fetch.py --out tests/benchmarks/results/encoder_fetch.json
	$(BIN)/python tests/benchmarks/training_speed.py --variants --out tests/benchmarks/results/training_speed.json
	$(BIN)/python tests/benchmarks/frozen_encoder.py --images 96 --out tests/benchmarks/results/frozen_encoder.json
	$(BIN)/python tests/benchmarks/case_cache.py --out tests/benchmarks/results/case_cache.json
	$(BIN)/python tests/benchmarks/private_training.py --threads 1 --out tests/benchmarks/results/private_training.json
	$(BIN)/python tests/benchmarks/private_training.py --threads 2 --out tests/benchmarks/results/private_training.json
	$(BIN)/python tests/benchmarks/secure_sum.py --out tests/benchmarks/results/secure_sum.json
	$(BIN)/python tests/benchmarks/relay_latency.py --out tests/benchmarks/results/relay_latency.json
	$(BIN)/python tests/benchmarks/status_page.py --out tests/benchmarks/results/status_page.json
	$(BIN)/python tests/benchmarks/scan_speed.py --out tests/benchmarks/results/scan_speed.json
	$(BIN)/python tests/benchmarks/poisoning.py --out tests/benchmarks/results/poisoning.json --doc docs/explanation/hostile-sites.md
	$(BIN)/python tests/benchmarks/workbench.py --out tests/benchmarks/results/workbench.json
	$(BIN)/python tests/benchmarks/dicom_files.py --out tests/benchmarks/results/dicom_files.json --doc docs/reference/dicom.md
	-$(BIN)/python tests/benchmarks/retrieval.py --out tests/benchmarks/results/retrieval.json

chaos: $(READY) ## inject faults into federations of real processes; SEEDS=3 FAULTS=24
	$(BIN)/python tests/benchmarks/under_faults.py --seeds $(or $(SEEDS),3) --faults $(or $(FAULTS),24) \
		--out tests/benchmarks/results/under_faults.json --doc docs/explanation/reliability.md
	$(BIN)/python tests/benchmarks/thousand_rounds.py --out tests/benchmarks/results/thousand_rounds.json \
		--doc docs/explanation/reliability.md

fuzz: $(READY) ## fuzz the parsers of foreign bytes for MINUTES=10
	@end=$$(($$(date +%s) + 60 * $(or $(MINUTES),10))); while [ $$(date +%s) -lt $$end ]; do \
		YNET_FUZZ=1 $(BIN)/python -m pytest tests/fuzz || exit 1; done

results: $(READY) ## train every plan with SEEDS seeds on DATA, and update docs/results.md
	$(BIN)/python tests/benchmarks/learning.py --data $(DATA) --work $(or $(WORK),results-out) --seeds $(or $(SEEDS),5) \
		--out tests/benchmarks/results/learning.json --doc docs/results.md

attacks: $(READY) ## attack models of DATA with and without privacy; updates docs/explanation/privacy.md
	$(BIN)/python tests/benchmarks/attacks.py --data $(DATA) --work $(or $(WORK),attacks-out) \
		--out tests/benchmarks/results/attacks.json --doc docs/explanation/privacy.md
	$(BIN)/python tests/benchmarks/private_membership.py --data $(DATA) --work $(or $(WORK),attacks-out) \
		--out tests/benchmarks/results/private_membership.json --doc docs/explanation/privacy.md

lock: $(READY) ## write requirements.lock from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

proto: $(READY) ## generate the protocol's Python code
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. ynet/federation/hub.proto ynet/federation/retrieval.proto

clean: ## remove everything that these commands made
	rm -rf $(VENV) demo-out site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
