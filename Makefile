# Thin names for the real commands.
.PHONY: help install run test check bench bench-peers lock docs clean
help:            ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14
install:         ## make .venv from the lock file
	@scripts/install
run: install     ## the demo: gateway, upstreams and the procurement story; serves until Ctrl-C
	@.venv/bin/bailiwick demo
test: install    ## all tests
	@.venv/bin/pytest -n 2
check: install   ## the one gate: format, lint, types, imports, house rules, docs
	@scripts/check
bench: install   ## side-by-side benchmarks against a plain proxy; prints ratios, writes bench/out/*.json
	@missed=0; for part in bench bench.decisions bench.identity bench.replay bench.sandbox bench.aggregate bench.hidden; do .venv/bin/python -m $$part || missed=1; done; exit $$missed
bench-escapes: install  ## every escape attempt in every environment, a thousand runs, killed gateways
	@.venv/bin/python -m bench.escapes
bench-peers: install  ## the same beside peers that pip can install, each in its own environment
	@.venv/bin/python -m bench --peers
docs: install    ## build the documentation strictly into site/
	@.venv/bin/mkdocs build --strict
lock: install    ## resolve the dependencies anew
	@scripts/lock
clean:           ## remove what the commands above made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache site bench/out bench/.peers .demo
