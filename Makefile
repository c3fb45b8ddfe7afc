# `make demo` and `make test` prepare everything they need: see README.md.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo demo-images frames-and-events baselines rivals pair memory segmentation test test-slow test-all lint bench bench-gpu clean

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

# --- pictures: a network of frames, and one of the events of the same streets beside it ------------
FRAMES := demo-images
SEEN   := $(FRAMES)/recordings/frames
set_of  = --$(1)images $(SEEN)/$(2) --$(1)annotations $(SEEN)/$(2).json

demo-images: $(READY)
	$(BIN)/python -m simulator $(FRAMES)/recordings --frames --train 40 --val 8 --test 10 --seconds 5 --seed 2
	$(BIN)/python -m images.train --config configs/demo_images.yaml $(call set_of,,train) $(call set_of,val-,val) --output $(FRAMES)/frames
	$(BIN)/python -m images.eval --checkpoint $(FRAMES)/frames $(call set_of,,test) --side 160 --output $(FRAMES)/frames/test

frames-and-events: demo-images
	$(BIN)/python -m preprocessing --input $(FRAMES)/recordings --output $(FRAMES)/cache --time-steps 2 --downsample 2
	$(BIN)/python train_gen1.py --config configs/demo.yaml --cache $(FRAMES)/cache --output $(FRAMES)/events --model.max-spikes 4 --model.input-scale 1 --epochs 10 --eval-every 10
	$(BIN)/python eval_gen1.py --checkpoint $(FRAMES)/events --cache $(FRAMES)/cache --output $(FRAMES)/events/test
	$(BIN)/python eval_gen1.py --compare $(FRAMES)/frames $(FRAMES)/events --output $(FRAMES)

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
# AxB: A steps of D = B, which see all bins. 1x8-N: --energy-weight N. 1x8-untaught: begun with the twin,
# without a teacher. relu-N, ilif-N (1x8), published-N (T steps of one bin, D = 4): N epochs from scratch.
# Others that are not asked for: make MODEL=ems-res10 PAIR=pair-ems pair-ems/1x8/0/test/metrics.json
PAIR      := pair
MODEL     := spikeyolo-p
PAIRS     := $(foreach run,twin 2x4 1x8 1x16,$(SEEDS:%=$(PAIR)/$(run)/%)) $(foreach run,1x8-0 1x8-0.3 1x8-3 1x8-untaught 1x4 2x2 4x2 2x1 relu-5 relu-40 $(foreach epochs,5 10 40,ilif-$(epochs) published-$(epochs)),$(PAIR)/$(run)/0)
ALL_BINS  := --model.activation ilif --model.bins-per-step 2
TWO_STEPS := --model.shown 2 --model.decay 1
OF_8      := $(ALL_BINS) --model.max-spikes 8 --model.input-scale 2
2x1       := $(ALL_BINS) $(TWO_STEPS) --model.max-spikes 1 --model.input-scale 0.5 --energy-weight 1
2x2       := $(ALL_BINS) $(TWO_STEPS) --model.max-spikes 2 --model.input-scale 0.5 --energy-weight 1
4x2       := $(ALL_BINS) --model.shown 4 --model.decay 1 --model.max-spikes 2 --model.input-scale 0.5 --energy-weight 1
2x4       := $(ALL_BINS) $(TWO_STEPS) --model.max-spikes 4 --model.input-scale 1 --energy-weight 1
1x4       := $(ALL_BINS) --model.max-spikes 4 --model.input-scale 1 --energy-weight 1
1x8       := $(OF_8) --energy-weight 1
1x8-0     := $(OF_8)
1x8-0.3   := $(OF_8) --energy-weight 0.3
1x8-3     := $(OF_8) --energy-weight 3
1x8-untaught := $(OF_8)
1x16      := $(ALL_BINS) --model.max-spikes 16 --model.input-scale 4 --energy-weight 0.3

pair: $(PAIRS:%=%/test/metrics.json)
	$(BIN)/python eval_gen1.py --compare $(PAIRS) --output $(PAIR)

.PRECIOUS: $(foreach run,twin/% start/% relu-%/0 ilif-%/0 published-%/0 %,$(PAIR)/$(run)/best.pt)
$(PAIR)/%/best.pt: export OMP_NUM_THREADS = 1
$(PAIR)/%/best.pt: train = $(BIN)/python train_gen1.py --config configs/synthetic.yaml --cache $(BASE)/cache --output $(@D) \
    --model.name $(MODEL) --seed $(notdir $(@D)) --optim.lr 1e-2 --optim.final-lr $(or $(1),0.3) --eval-every 10
$(PAIR)/twin/%/best.pt: $(BASE)/cache/manifest.json
	$(train) --model.activation relu --epochs 10

$(PAIR)/start/%/best.pt: $(BASE)/cache/manifest.json
	$(call train,0.7) --model.activation relu --epochs 3

$(PAIR)/relu-%/0/best.pt: $(BASE)/cache/manifest.json
	$(train) --model.activation relu --epochs $*

$(PAIR)/ilif-%/0/best.pt: $(BASE)/cache/manifest.json
	$(train) $(OF_8) --epochs $*

$(PAIR)/published-%/0/best.pt: $(BASE)/cache/manifest.json
	$(train) --model.activation ilif --model.max-spikes 4 --epochs $*

.SECONDEXPANSION:
$(PAIR)/%/best.pt: $(PAIR)/start/$$(notdir $$*)/best.pt $(PAIR)/twin/$$(notdir $$*)/best.pt
	$(train) $($(firstword $(subst /, ,$*))) --epochs 7 --init $(PAIR)/start/$(notdir $*) \
	    $(if $(findstring ems,$(MODEL))$(findstring untaught,$*),,--distill $(PAIR)/twin/$(notdir $*))

$(PAIR)/%/test/metrics.json: $(PAIR)/%/best.pt
	$(BIN)/python eval_gen1.py --checkpoint $(PAIR)/$* --cache $(BASE)/cache --output $(@D)

# --- streets that stand still: without memory, with leaky, spiking and ANN ones ---------------------
# ROW/SEED: none and twin go on from what `pair` trained on streets that move, 16 windows from rest at
# a time; hold is none with a memory that has not learnt, spiking with one that has; hold-twin and gru
# are the twin's; leaky learns decays. none is scored with all membranes carried, too.
# Windows of 50 ms: make STOPS=bench-stops-50 WINDOW_MS=50 HEARD=0.8 bench-stops-50/hold/0/test/metrics.json
STOPS     := bench-stops
WINDOW_MS := 250
HEARD     := 4
MEMORIES  := $(foreach run,none hold spiking leaky twin hold-twin gru,$(SEEDS:%=$(STOPS)/$(run)/%/test)) $(SEEDS:%=$(STOPS)/none/%/carried)
AT_REST   := --epochs 4 --eval-every 4 --batch-size 16 --optim.lr 3e-3
IN_CLIPS  := --epochs 4 --eval-every 4 --batch-size 4 --stream.clip 8 --stream.random-share 0
REMEMBER  := --freeze detector --model.memory-events $(HEARD) --optim.lr 2e-4 $(IN_CLIPS)
on-none    = --init $(PAIR)/1x8/$(1) $(OF_8) $(AT_REST)
on-leaky   = --init $(PAIR)/1x8/$(1) $(OF_8) --model.memory leaky --optim.lr 3e-3 $(IN_CLIPS)
on-spiking = --init $(STOPS)/none/$(1) $(OF_8) --model.memory spiking $(REMEMBER)
on-twin    = --init $(PAIR)/twin/$(1) --model.activation relu $(AT_REST)
on-gru     = --init $(STOPS)/twin/$(1) --model.activation relu --model.memory gru $(REMEMBER)

memory: $(MEMORIES:%=%/metrics.json)
	$(BIN)/python eval_gen1.py --compare $(MEMORIES) --output $(STOPS)

$(STOPS)/cache/manifest.json: | $(READY)
	$(BIN)/python -m simulator $(STOPS)/recordings --stops --train 32 --val 4 --test 16 --seconds 8 --seed 4
	$(BIN)/python -m preprocessing --input $(STOPS)/recordings --output $(STOPS)/cache --every-ms $(WINDOW_MS) --window-ms $(WINDOW_MS) --time-steps 2 --downsample 2

.PRECIOUS: $(STOPS)/%/best.pt
$(STOPS)/%: export OMP_NUM_THREADS = 1
$(STOPS)/%/best.pt: seed = $(notdir $(@D))
$(STOPS)/%/best.pt: train = $(BIN)/python train_gen1.py --config configs/synthetic.yaml --cache $(STOPS)/cache --output $(@D) \
    --seed $(seed) --optim.final-lr 0.1 $(call on-$(notdir $(@D:/$(seed)=)),$(seed))
$(SEEDS:%=$(STOPS)/spiking/%/best.pt): $(STOPS)/spiking/%/best.pt: $(STOPS)/none/%/best.pt
	$(train)

$(SEEDS:%=$(STOPS)/hold/%/best.pt): $(STOPS)/hold/%/best.pt: $(STOPS)/none/%/best.pt
	$(BIN)/python -m models.memory $(STOPS)/none/$* --events $(HEARD) --output $@

$(SEEDS:%=$(STOPS)/hold-twin/%/best.pt): $(STOPS)/hold-twin/%/best.pt: $(STOPS)/twin/%/best.pt
	$(BIN)/python -m models.memory $(STOPS)/twin/$* --events $(HEARD) --output $@

$(SEEDS:%=$(STOPS)/gru/%/best.pt): $(STOPS)/gru/%/best.pt: $(STOPS)/twin/%/best.pt
	$(train)

$(STOPS)/%/best.pt: $(STOPS)/cache/manifest.json $(PAIR)/twin/$$(notdir $$*)/best.pt $(PAIR)/1x8/$$(notdir $$*)/best.pt
	$(train)

# Every window of test is priced, with and without state, so that energies compare.
$(STOPS)/%/metrics.json: $(STOPS)/$$(*D)/best.pt
	$(BIN)/python eval_gen1.py --checkpoint $(STOPS)/$(*D) --cache $(STOPS)/cache --output $(@D) --energy-samples 0 \
	    $(if $(filter none/%/test twin/%/test,$*),,--carry-state)

# --- class masks: a head of queries and one per px, spikes without and with memory, the twin -------
# HEAD/NEURON/SEED; nilif is published (T bins are T pictures), -time lets membranes pass on, e- has
# the other backbone.
STREETS    := bench-masks
MASK_RUNS  := $(foreach run,fpn/nilif fpn/nilif-time fpn/ilif fpn/relu,$(SEEDS:%=$(STREETS)/$(run)/%)) $(foreach run,fpn/e-nilif mask/nilif mask/nilif-time mask/ilif mask/relu,$(STREETS)/$(run)/0)
nilif      := --model.activation nilif
e-nilif    := --model.name spike2former-e-tiny --model.activation nilif
nilif-time := --model.activation nilif --model.decay 0.5
ilif       := --model.activation ilif
relu       := --model.activation relu

segmentation: $(MASK_RUNS:%=%/test/metrics.json)
	$(BIN)/python eval_gen1.py --compare $(MASK_RUNS) --output $(STREETS)

$(STREETS)/cache/manifest.json: | $(READY)
	$(BIN)/python -m simulator $(STREETS)/recordings --masks --train 40 --val 8 --test 12 --seconds 4 --seed 3
	$(BIN)/python -m preprocessing --input $(STREETS)/recordings --output $(STREETS)/cache --keep masks --time-steps 2 --downsample 2

$(STREETS)/%/test/metrics.json: export OMP_NUM_THREADS = 1
$(STREETS)/%/test/metrics.json: of = --cache $(STREETS)/cache --masks $(STREETS)/recordings
$(STREETS)/%/test/metrics.json: part = $(word $(1),$(subst /, ,$*))
$(STREETS)/%/test/metrics.json: $(STREETS)/cache/manifest.json configs/segmentation.yaml
	$(BIN)/python -m segmentation.train --config configs/segmentation.yaml $(of) --output $(STREETS)/$* \
	    --model.head $(call part,1) $($(call part,2)) --seed $(call part,3)
	$(BIN)/python -m segmentation.eval --checkpoint $(STREETS)/$* $(of) --output $(@D)

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
	rm -rf $(DEMO) $(FRAMES) $(BASE) $(PAIR) $(STOPS) $(STREETS) $(VENV)
