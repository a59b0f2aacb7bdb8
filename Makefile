# Two commands matter: `make demo` and `make test`. Both create .venv first.
PYTHON ?= python3
BIN := .venv/bin
PROFILE ?= demo
OUT := results/runs/$(PROFILE)

.PHONY: demo test lint install reproduce site

# what the demo needs; the tests' extras come with `make test`, and the pages' with `make site`
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "installing into .venv: PyPI's torch brings CUDA's libraries, some 3 GB to download, 6 GB on disk"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-%: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

demo: install
	mkdir -p $(OUT)
	$(BIN)/papermill notebooks/00_start_here.ipynb $(OUT)/00_start_here.ipynb \
		-f notebooks/profiles/$(PROFILE).yaml --log-output --no-progress-bar
	$(BIN)/jupyter nbconvert --to html --log-level WARN $(OUT)/00_start_here.ipynb
	@echo
	@echo "executed notebook  $(OUT)/00_start_here.ipynb"
	@echo "HTML copy          $(OUT)/00_start_here.html"
	@find $(OUT) -path '*/two-stream/seed0/figures/*.png' | sort | sed 's/^/figure             /'

# all 29 tables and figures of the papers, one seed; what is finished is not trained again
reproduce: install
	$(BIN)/python -m reid_core reproduce --profile $(PROFILE)

# the README and the executed notebooks as pages that open without network; trains what is missing
site: .venv/installed-site
	$(BIN)/python -m reid_core site --profile $(PROFILE)

test: .venv/installed-test
	$(BIN)/pytest -n auto

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
