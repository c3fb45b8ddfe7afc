# `make demo` and `make test` prepare everything they need: see README.md.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo baselines test lint bench bench-gpu clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed; %s is %s. Try: make PYTHON=python3.12" % (sys.executable, sys.version.split()[0])) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# --- the demo: synthetic recordings to mAP and energy, about 12 minutes on two cores ------------
DEMO := demo

demo: $(READY)
	$(BIN)/python -m gen1.synthetic $(DEMO)/recordings --train 56 --val 10 --test 12 --seconds 5 --seed 0
	$(BIN)/python -m preprocessing --input $(DEMO)/recordings --output $(DEMO)/cache --time-steps 2 --downsample 2
	$(BIN)/python train_gen1.py --config configs/demo.yaml --cache $(DEMO)/cache --output $(DEMO)/run
	$(BIN)/python eval_gen1.py --checkpoint $(DEMO)/run --cache $(DEMO)/cache --output $(DEMO)/run/test

# --- the synthetic benchmark: four kinds of neuron on equal data and budget, three seeds ---------
# `make -j2 baselines` uses two cores, about 80 minutes; kill it as you like, it goes on when asked.
BASE      := baselines
NEURONS   := ilif lif qann relu
SEEDS     := 0 1 2
RUNS      := $(foreach seed,$(SEEDS),$(foreach neuron,$(NEURONS),$(BASE)/$(neuron)-$(seed)))

baselines: $(RUNS:%=%/test/metrics.json)
	$(BIN)/python eval_gen1.py --compare $(RUNS) --output $(BASE)

$(BASE)/cache/manifest.json: | $(READY)
	$(BIN)/python -m gen1.synthetic $(BASE)/recordings --train 100 --val 16 --test 40 --seconds 5 --seed 1
	$(BIN)/python -m preprocessing --input $(BASE)/recordings --output $(BASE)/cache --time-steps 2 --downsample 2

$(BASE)/%/test/metrics.json: export OMP_NUM_THREADS = 1
$(BASE)/%/test/metrics.json: $(BASE)/cache/manifest.json configs/synthetic.yaml
	$(BIN)/python train_gen1.py --config configs/synthetic.yaml --cache $(BASE)/cache --output $(BASE)/$* \
	    --model.activation $(word 1,$(subst -, ,$*)) --seed $(word 2,$(subst -, ,$*))
	$(BIN)/python eval_gen1.py --checkpoint $(BASE)/$* --cache $(BASE)/cache --output $(BASE)/$*/test

# --- for developers -----------------------------------------------------------------------------
# Tests work on little: threads would only wait for each other, the worse the busier the machine.
test: export OMP_NUM_THREADS = 1
test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

# On a machine with an NVIDIA GPU: first the kernels' tests, then every figure that needs one,
# into benchmarks/results/. CuPy is that of torch's CUDA.
bench-gpu: CUPY = cupy-cuda$(shell $(BIN)/python -c 'import torch; print((torch.version.cuda or "12").split(".")[0])')x
bench-gpu: $(READY)
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "torch %s finds no GPU" % torch.__version__)'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(CUPY)
	$(BIN)/python -m pytest -m gpu
	failed=0; for script in ilif train_step inference deploy; do $(BIN)/python benchmarks/$$script.py --device cuda || failed=1; done; exit $$failed

clean:
	rm -rf $(DEMO) $(BASE) $(VENV)
