# make book   build the book into _build/html, after executing the notebooks whose outputs are stale
# make test   every check: lint, types, unit tests, notebooks, strict book build
# make look   every built page (PAGES=04,intro: these) in a browser without a network (needs Chromium and Node)
# make mutants   small changes of the policy room and the metrics, each of which a test must see (pip install
#                -e '.[mutants]' first; SAMPLE=0 takes all of them, which is hours)
# make zip    twin-book.zip of the last commit, to upload beside a notebook where there is no address
# make home URL=...   write the repository's address wherever it belongs
PYTHON ?= python3
JOBS ?= 2
NOTEBOOK_TIMEOUT ?= 300
BIN := .venv/bin
BUILD := $(BIN)/jupyter-book build . --warningiserror --keep-going --nitpick --quiet
export OMP_NUM_THREADS ?= 1
export PYTHON
.PHONY: book test environment lint types unit notebooks html pages pairs execute results learned claims home zip look mutants colab links clean

book: environment
	@$(BIN)/python scripts/execute.py --stale --jobs $(JOBS); status=$$?; \
	if [ $$status -ne 0 ] && [ $$status -ne 3 ]; then exit $$status; fi; \
	$(MAKE) --no-print-directory html || exit $$?; \
	echo "Open _build/html/index.html in a browser."; \
	exit $$status

# Types and pages need one processor for two minutes, the unit tests two for longer: they run side by side.
test: environment lint
	@sh scripts/beside.sh "$(MAKE) --no-print-directory unit" \
	  "$(MAKE) --no-print-directory --keep-going types pages"
	@$(MAKE) --no-print-directory notebooks
	@echo "Every check passed."

environment:
	@sh scripts/environment.sh

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: environment
	$(BIN)/mypy twinlib experiments

# A file stays with one process, so that what its tests share is made once.
unit: environment
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -p no:nbmake \
	  --ignore tests/book/test_built.py tests

notebooks: environment
	$(BIN)/python -m pytest -q -n $(JOBS) --nbmake --nbmake-timeout=$(NOTEBOOK_TIMEOUT) notebooks

# A later build on the same doctrees forgets the warnings of an earlier one, so they go first.
html: environment
	@rm -rf _build/.doctrees
	$(BUILD)

# Links, images and tables of the built pages.
pages: html
	$(BIN)/python -m pytest -q tests/book/test_built.py

pairs: environment
	$(BIN)/python scripts/pair.py

execute: environment
	$(BIN)/python scripts/execute.py --jobs $(JOBS) $(NN)

# The tables of one protocol on one dataset; hours for ten seeds at the paper's number of steps.
PROTOCOL ?= released
DATASET ?= papalexi2021
SEEDS ?= 10
TIMESTEPS ?= 150000
results: environment
	$(BIN)/python -m experiments $(PROTOCOL) --dataset $(DATASET) \
	  --seeds $(SEEDS) --timesteps $(TIMESTEPS) --out results/$(PROTOCOL)/$(DATASET)

# Everything that learns in this book: the tuning, then all arms at the settings in results/tuning, then the escapes;
# hours, and the same command goes on where it was cut off. To begin from nothing delete results/tuning,
# results/policies and results/escape_tuned first: tables without the parts of their run are never written over.
LEARNED_ON := waddington papalexi2021 norman2019 kang2018 chi11
LANDSCAPES := toggle_low toggle_middle toggle_high myeloid kang2018_monocytes papalexi2021 chi11
RUNS ?= results
learned: environment
	$(BIN)/python -m experiments tuning --dataset $(LEARNED_ON) --workers $(JOBS) --resume --out $(RUNS)/tuning
	$(BIN)/python -m experiments policies --dataset $(LEARNED_ON) cross_study --workers $(JOBS) --resume \
	  --out $(RUNS)/policies
	$(BIN)/python -m experiments escape_tuned --dataset $(LANDSCAPES) --workers $(JOBS) --resume \
	  --out $(RUNS)/escape_tuned
	$(MAKE) --no-print-directory claims

# The claims page and the findings in the README, from the results that are there.
claims: environment
	$(BIN)/python -m experiments claims
	$(BIN)/python scripts/findings.py

# Built pages in headless Chromium with the network cut; skipped with a reason where it cannot run.
# `make look PAGES=04,intro SHOTS=folder` looks at these alone and keeps pictures of them.
look: html
	@PAGES="$(PAGES)" SHOTS="$(SHOTS)" sh scripts/look/look.sh

SAMPLE ?= 300
mutants: environment
	$(BIN)/python scripts/mutants.py --sample $(SAMPLE) $(MODULES)

# Each notebook as Colab runs it: alone, in an environment without twinlib, installed from a git address.
colab: environment
	$(BIN)/python scripts/colab_check.py $(NN)

links: environment
	$(BIN)/python scripts/links.py

home: environment
	$(BIN)/python scripts/home.py "$(URL)"

zip:
	git archive --format=zip --prefix=twin-book/ --output=twin-book.zip HEAD

clean:
	rm -rf _build
