# Every target builds its own prerequisites, .venv included. It needs Python >= 3.10 with venv and a C++ compiler.
PYTHON ?= python3
VENV ?= .venv
FAMILY ?= rnn
python = $(VENV)/bin/python

# Extras that each target installs
demo.extras := demo
test.extras := torch,test,demo,models
bench.extras := models
lint.extras := torch,dev,demo
docs.extras := torch,docs
site.extras := torch,docs,site
parallel.extras := parallel
card.extras := gpu,test

build.inputs := pyproject.toml CMakeLists.txt $(wildcard $(foreach depth,* */* */*/* */*/*/*,csrc/$(depth).?pp))
cxx.sources := $(filter csrc/%,$(build.inputs))
# Markdown files whose code blocks `make test` runs
pages := README.md docs
# Instruction sets that kernels are compiled for: native, the best that this machine runs, or all (`make test LEVELS=all`)
LEVELS ?= native
# `make card`: PART=1 runs one of its three parts; WHEELS=dir installs from a folder of wheels, without a network
card.began := $(shell date +%s)
ifdef WHEELS
export PIP_NO_INDEX = 1
export PIP_FIND_LINKS = $(abspath $(WHEELS))
endif
export SKBUILD_CMAKE_DEFINE = FASTITER_LEVELS=$(LEVELS);FASTITER_SANITIZE=$(SANITIZE);FASTITER_WERROR=$(if $(SANITIZE),OFF,ON)

.PHONY: help demo test bench card lint format docs check-site check-kernels sanitize sanitize-address sanitize-thread fuzz soak clean
.NOTPARALLEL: # one environment, one build folder

help:
	@echo "make demo      train an LSTM, a GRU and a Mamba before and after accelerate(model), and draw them"
	@echo "make test      all tests and doctests, on every core        ARGS='-k lstm -n 0' goes to pytest"
	@echo "make bench     fastiter against its peers                   FAMILY=scan (and others)  ARGS=--quick"
	@echo "make card      everything on an NVIDIA card, three parts    PART=1  WHEELS=dir  ARGS=--dry-run"
	@echo "make lint      formatting, linters and types                make format repairs what it can"
	@echo "make docs      the pages of docs/ as a site in build/docs"
	@echo "make check-site  opens every page of that site in Chromium, which has to be installed"
	@echo "make check-kernels  every variant of the GPU kernels, compiled for every architecture without a card; minutes"
	@echo "make sanitize  the NumPy tests under AddressSanitizer and UBSan; SANITIZE=thread: ThreadSanitizer"
	@echo "make fuzz      millions of invalid inputs, ten minutes       ARGS='--seconds 60'"
	@echo "make soak      100,000 calls of all functions, checked for memory growth; calls from eight threads"
	@echo "make clean     remove .venv and everything built"

demo: $(VENV)/.demo
	$(python) examples/char_lm.py $(ARGS)

# One worker for each core that this process may use; of two options -n the last one counts, so ARGS="-n 0" runs all
# tests in one process. worksteal gives each worker a contiguous range of tests, so that few module fixtures are built
# twice. The code blocks of a page share their names, so one process runs a whole page; skipped if ARGS selects tests.
workers := -n logical --maxprocesses 16
test: $(VENV)/.test
	$(RUN) $(python) -m pytest $(workers) --dist worksteal --doctest-modules python/fastiter tests $(ARGS)
	$(if $(filter -k -m,$(ARGS)),,$(if $(pages),$(RUN) $(python) -m pytest $(workers) --dist loadfile $(pages) $(ARGS)))

bench: $(VENV)/.bench-peers
	$(python) -m bench $(FAMILY) $(ARGS)

# CPU kernels only serve as references here: one instruction set is enough. Peers that fail to install are left out.
card: LEVELS = baseline
card: $(VENV)/.peers
	$(python) -m bench card $(addprefix --part ,$(PART)) --began $(card.began) $(ARGS)

lint: $(VENV)/.lint
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(VENV)/bin/clang-format --dry-run --Werror $(cxx.sources)
	$(python) -m mypy
	$(python) -m pyright --pythonpath $(python)
	$(python) tests/core/text/typed_blocks.py

format: $(VENV)/.lint
	$(python) -m ruff check --fix
	$(python) -m ruff format
	$(VENV)/bin/clang-format -i $(cxx.sources)

docs: $(VENV)/.docs
	$(python) -m sphinx -W -E docs build/docs

check-site: docs $(VENV)/.site
	$(python) -m tests.core.text.check_site $(ARGS)

# The tests compile one variant of each kernel for one architecture.
check-kernels: $(VENV)/.test
	$(python) tests/gpu/compile/gate.py --check all

# torch is left out: it allocates more than the sanitizers can track quickly, and calls the same kernels.
sanitize: sanitize-$(or $(SANITIZE),address)

sanitized = SKBUILD_BUILD_DIR=build/sanitize-$(1)-{wheel_tag} SKBUILD_INSTALL_STRIP=false
preload = LD_PRELOAD="$(foreach library,$(1) stdc++,$(shell $(CXX) -print-file-name=lib$(library).so))"

sanitize-address:
	$(call sanitized,address) $(MAKE) test SANITIZE=address,undefined LEVELS=all VENV=build/sanitize-venv test.extras=test pages= \
	    ARGS='--capture=sys --doctest-ignore-import-errors $(ARGS)' \
	    RUN='env ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 $(call preload,asan)'

# Threads divide work in the same way on every instruction set, so the baseline is enough. Reports of races are enabled
# only for the tests: races in pip are not ours.
sanitize-thread: VENV = build/sanitize-thread-venv
sanitize-thread: run = env TSAN_OPTIONS=die_after_fork=0 $(call preload,tsan) $(python) -m
sanitize-thread:
	TSAN_OPTIONS=report_bugs=0 $(call sanitized,thread) $(MAKE) $(VENV)/.parallel SANITIZE=thread LEVELS=baseline VENV=$(VENV)
	$(run) tests.core.concurrent_calls race 2>&1 | grep "WARNING: ThreadSanitizer: data race" # it sees one
	$(run) tests.core.concurrent_calls
	$(run) pytest --capture=sys --parallel-threads=2 $(or $(ARGS),$(wildcard tests/*/test_errors.py))

fuzz: $(VENV)/.test
	$(python) -m tests.public.fuzz $(ARGS)

soak: $(VENV)/.test
	$(python) -m tests.public.soak $(ARGS)

clean:
	rm -rf $(VENV) build dist

# A stamp file: the extras of a target are installed, and the module is built from the current sources.
# With -v, pip shows Ninja's progress instead of nothing for minutes.
$(VENV)/.%: $(VENV)/.tools $(VENV)/.levels $(build.inputs)
	$(python) -m pip install -v --no-build-isolation --check-build-dependencies -e '.[$($*.extras)]'
	@touch $@

# Packages to compare with: those that cannot be installed are left out.
$(VENV)/.bench-peers: $(VENV)/.bench bench/harness/install.py
	$(python) -m bench.harness.install
	@touch $@

$(VENV)/.peers: $(VENV)/.card bench/harness/install.py
	-$(python) -m bench.harness.install card
	@touch $@

# Rewritten only when LEVELS differs from the last build's, which triggers a rebuild
$(VENV)/.levels: $(VENV)/.tools FORCE
	@echo '$(LEVELS)' | cmp -s - $@ || echo '$(LEVELS)' > $@
FORCE:

# The build requirements stay in the environment (no build isolation), so that only changed source files are compiled.
$(VENV)/.tools:
	$(PYTHON) -m venv $(VENV)
	$(python) -m pip install cmake ninja pybind11 scikit-build-core
	@touch $@
