# The two commands of the README, and the pieces they are made of. Everything runs in the project's own .venv.
PYTHON ?= python3
BIN := .venv/bin
# two workers, all of a file's tests on one of them; each trains the embedded model, which takes up to 3 GB
PYTEST := $(BIN)/python -P -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test setup check quick format docs site bundle clean

demo: setup
	$(BIN)/looptune demo

test: setup check
	$(PYTEST) --durations=30 --durations-min=10

setup:
	@$(PYTHON) bootstrap.py

# what CI checks before it runs the tests
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# the everyday suite: everything but the tests marked slow
quick: setup
	$(PYTEST) -m "not slow"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# what is written from the code: the reference, and the third-party notices
docs: setup
	$(BIN)/python -P docs/build.py
	$(BIN)/python -P docs/notices.py

# the documentation as a site, in site/
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -P -m mkdocs build --quiet

# dist/looptune-VERSION.mcpb, for hosts that install a bundle with one click
bundle: setup
	$(BIN)/looptune bundle

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache site
