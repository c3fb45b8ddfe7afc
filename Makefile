# `make demo` and `make test` prepare everything they need: see README.md.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo baselines rivals pair test test-slow test-all lint bench bench-gpu clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed; %s is %s. Try: make PYTHON=python3.12" % (sys.executable, sys.version.split()[0])) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# --- the demo: synthetic recordings to mAP and energy, of the ANN twin and of spikes --------------
DEMO := demo

demo: $(READY)
	$(BIN)/python -m simulator $(DEMO)/recordings --train 56 --val 10 --test 12 --seconds 5 --seed 0
	$(BIN)/python -m preprocessing --input $(DEMO)/recordings --output $(DEMO)/cache --time-steps 2 --downsample 2
	$(BIN)/python train_gen1.py --config configs/demo.yaml --cache $(DEMO)/cache --output $(DEMO)/twin --model.activation relu
	$(BIN)/python train_gen1.py --config configs/demo.yaml --cache $(DEMO)/cache --output $(DEMO)/run --init $(DEMO)/twin --energy-weight 0.5
	$(BIN)/python eval_gen1.py --checkpoint $(DEMO)/twin --cache $(DEMO)/cache --output $(DEMO)/twin/test
	$(BIN)/python eval_gen1.py --checkpoint $(DEMO)/run --cache $(DEMO)/cache --output $(DEMO)/run/test
	$(BIN)/python eval_gen1.py --compare $(DEMO)/twin $(DEMO)/run --output $(DEMO)

# --- the synthetic benchmark: networks and neurons on equal data and budget, three seeds --------
# With -j2 on two cores; kill it as you like, it goes on when asked. Times: configs/synthetic.yaml.
BASE      := baselines
SEEDS     := 0 1 2
runs       = $(foreach seed,$(SEEDS),$(foreach neuron,$(2),$(BASE)/$(1)/$(neuron)/$(seed)))
BASELINES := $(call runs,spikeyolo-p,ilif lif-soft qann relu)
RIVALS    := $(call runs,spikeyolo-p,nilif) $(call runs,ems-res10,lif-hard ilif nilif relu)

baselines: $(BASELINES:%=%/test/metrics.json)
	$(BIN)/python eval_gen1.py --compare $(BASELINES) --output $(BASE)

rivals: $(BASELINES:%=%/test/metrics.json) $(RIVALS:%=%/test/metrics.json)
	$(BIN)/python eval_gen1.py --compare $(BASELINES) $(RIVALS) --output $(BASE)

$(BASE)/cache/manifest.json: | $(READY)
	$(BIN)/python -m simulator $(BASE)/recordings --train 100 --val 16 --test 40 --seconds 5 --seed 1
	$(BIN)/python -m preprocessing --input $(BASE)/recordings --output $(BASE)/cache --time-steps 2 --downsample 2

$(BASE)/%/test/metrics.json: export OMP_NUM_THREADS = 1
$(BASE)/%/test/metrics.json: part = $(word $(1),$(subst /, ,$*))
$(BASE)/%/test/metrics.json: $(BASE)/cache/manifest.json configs/synthetic.yaml
	$(BIN)/python train_gen1.py --config configs/synthetic.yaml --cache $(BASE)/cache --output $(BASE)/$* \
	    --model.name $(call part,1) --model.activation $(call part,2) --seed $(call part,3) $(if $(findstring ems-res10/lif,$*),--model.max-spikes 1)
	$(BIN)/python eval_gen1.py --checkpoint $(BASE)/$* --cache $(BASE)/cache --output $(BASE)/$*/test

# --- a race of equals: the twin of ten epochs, and spikes of seven after three of the twin's -------
# 2x4: two steps, both see all bins; 1x8, 1x16: one. 1x8-N (not asked for): --energy-weight N.
PAIR      := pair
PAIRS     := $(foreach run,twin 2x4,$(SEEDS:%=$(PAIR)/$(run)/%)) $(foreach run,1x8 1x16,$(PAIR)/$(run)/0)
RATE      := --optim.lr 1e-2 --optim.final-lr 0.3 --eval-every 10
ALL_BINS  := --epochs 7 --model.activation ilif --model.bins-per-step 2
2x4       := $(ALL_BINS) --model.shown 2 --model.decay 1 --model.max-spikes 4 --model.input-scale 1
1x8       := $(ALL_BINS) --model.max-spikes 8 --model.input-scale 2
1x16      := $(ALL_BINS) --model.max-spikes 16 --model.input-scale 4

pair: $(PAIRS:%=%/test/metrics.json)
	$(BIN)/python eval_gen1.py --compare $(PAIRS) --output $(PAIR)

.PRECIOUS: $(foreach run,twin start 2x4 1x8 1x16,$(PAIR)/$(run)/%/best.pt) $(PAIR)/1x8-%/0/best.pt
$(PAIR)/%/best.pt: export OMP_NUM_THREADS = 1
$(PAIR)/%/best.pt: train = $(BIN)/python train_gen1.py --config configs/synthetic.yaml --cache $(BASE)/cache --output $(@D) --seed $(notdir $(@D)) $(RATE)
$(PAIR)/twin/%/best.pt: $(BASE)/cache/manifest.json
	$(train) --model.activation relu --epochs 10

$(PAIR)/start/%/best.pt: $(BASE)/cache/manifest.json
	$(train) --model.activation relu --epochs 3 --optim.final-lr 0.7

of_twin    = --init $(PAIR)/start/$(1) --distill $(PAIR)/twin/$(1)
$(PAIR)/2x4/%/best.pt: $(PAIR)/start/%/best.pt $(PAIR)/twin/%/best.pt
	$(train) $(2x4) --energy-weight 1 $(call of_twin,$*)

$(PAIR)/1x8/%/best.pt: $(PAIR)/start/%/best.pt $(PAIR)/twin/%/best.pt
	$(train) $(1x8) --energy-weight 1 $(call of_twin,$*)

$(PAIR)/1x16/%/best.pt: $(PAIR)/start/%/best.pt $(PAIR)/twin/%/best.pt
	$(train) $(1x16) --energy-weight 0.3 $(call of_twin,$*)

$(PAIR)/1x8-%/0/best.pt: $(PAIR)/start/0/best.pt $(PAIR)/twin/0/best.pt
	$(train) $(1x8) --energy-weight $* $(call of_twin,0)

$(PAIR)/%/test/metrics.json: $(PAIR)/%/best.pt
	$(BIN)/python eval_gen1.py --checkpoint $(PAIR)/$* --cache $(BASE)/cache --output $(@D)

# --- for developers -----------------------------------------------------------------------------
# Tests work on little: a process a core, of one thread; more would only wait for each other.
test test-slow test-all: export OMP_NUM_THREADS = 1
test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m 'not gpu and not slow'

test-slow: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m 'slow and not gpu'

test-all: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases tests/conftest.py tests/*/conftest.py tests/training/[gr]*.py

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
	rm -rf $(DEMO) $(BASE) $(PAIR) $(VENV)
