# Each goal makes the virtual environment that it needs, and renews it when its
# requirements change. PYTHON is any Python 3.11, 3.12 or 3.13.

PYTHON ?= python3
QUICKSTART ?= runs/quickstart
SCENES ?= runs/scenes
SCENES_OF := semantic layout super_resolution inpainting unconditional guidance

# Two test processes; the tests of a file share what they build.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
PIP := bin/python -m pip --disable-pip-version-check

.PHONY: help quickstart scenes test test-all test-parity lint bench chaos \
  requirements clean $(SCENES_OF:%=scenes-%)

help:  ## List the goals.
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' Makefile | expand -t 16

quickstart: .venv/stamp  ## Train both stages on a CPU, then draw a gallery.
	.venv/bin/python train.py --config=configs/first_stage/scenes_kl.py \
	  --workdir=$(QUICKSTART)/first_stage
	.venv/bin/python train.py --config=configs/text_scenes.py \
	  --workdir=$(QUICKSTART)/text \
	  --config.first_stage_from=$(QUICKSTART)/first_stage
	.venv/bin/python sample.py --workdir=$(QUICKSTART)/text --num=200 \
	  --inputs=held_out --guidance=4 --steps=25 --batch_size=20 \
	  --out=$(QUICKSTART)/gallery
	.venv/bin/python evaluate.py --workdir=$(QUICKSTART)/first_stage
	.venv/bin/python evaluate.py --samples=$(QUICKSTART)/gallery \
	  --workdir=$(QUICKSTART)/text

# A run that is complete is not trained again, so a second call goes on where the
# first was stopped. Each task is a goal of its own too; docs/tasks.md has them on
# a core each, which is faster.
scenes: $(SCENES_OF:%=scenes-%)  ## Train the other tasks on scenes; score them.

scenes-semantic: .venv/stamp
	$(call train,semantic) --config.first_stage_from=$(FIRST)
	$(call score,semantic) --guidance=3

scenes-layout: .venv/stamp
	$(call train,layout) --config.first_stage_from=$(FIRST)
	$(call score,layout) --guidance=3

scenes-super_resolution: .venv/stamp
	$(call train,super_resolution) --config.first_stage_from=$(FIRST)
	$(call train,super_resolution,:bsr) --config.first_stage_from=$(FIRST) \
	  --config.init_from=$(SCENES)/super_resolution --config.num_steps=1000
	$(call score,super_resolution) --guidance=2
	$(call score,super_resolution) --degradation=bsr_light \
	  --out=$(SCENES)/super_resolution_of_bsr.png
	$(call score,super_resolution_bsr)

scenes-inpainting: .venv/stamp
	$(call train,inpainting) --config.first_stage_from=$(FIRST)
	$(call score,inpainting)

scenes-unconditional: .venv/stamp
	$(call train,unconditional) --config.first_stage_from=$(FIRST)
	$(call train,classifier) --config.first_stage_from=$(SCENES)/unconditional

scenes-guidance: scenes-unconditional
	$(GUIDE) --classifier=$(SCENES)/classifier --eta=1 --steps=100 \
	  --num=200 --scales=0,3,20,60 --out=$(SCENES)/classifier.png
	$(GUIDE) --target=downsampling --num=24 --scales=0,0.03,0.1,0.3
	$(GUIDE) --target=mask --num=24 --scales=0,0.003,0.01,0.03

FIRST = $(QUICKSTART)/first_stage
train = .venv/bin/python train.py --config=configs/$(1)_scenes.py$(2) \
	  --workdir=$(SCENES)/$(1)$(subst :,_,$(2))
score = .venv/bin/python -m benchmarks.scene_tasks --workdir=$(SCENES)/$(1) \
	  --out=$(SCENES)/$(1).png
GUIDE = .venv/bin/python -m benchmarks.scene_guidance \
	  --workdir=$(SCENES)/unconditional

# They compile more than they compute: the same programs, as machine code that
# took less work, are ready in two thirds of the time.
test: export JAX_DISABLE_MOST_OPTIMIZATIONS ?= 1
test: .venv/stamp  ## Run the quick tests, without torch.
	.venv/bin/python -m pytest -q -m 'not slow' --ignore=tests/parity $(TWO)

test-all: .venv/stamp  ## Run the slow tests too.
	.venv/bin/python -m pytest -q --ignore=tests/parity $(TWO)

test-parity: .venv-parity/stamp  ## Compare with torch, diffusers, transformers.
	.venv-parity/bin/python -m pytest -q tests/parity $(TWO)

lint: .venv/stamp  ## Check lint and format.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# The peers need torch. ARGS reaches all of them: ARGS=--rounds=3.
BENCHMARKS := device unet_forward training_step sampling first_stage_step \
  compression input_pipeline startup growth attention conv_gradients

bench: .venv/stamp .venv-parity/stamp  ## Measure beside diffusers and torch.
	for name in $(BENCHMARKS); do \
	  .venv/bin/python -m benchmarks.$$name $(ARGS) || exit 1; done
	.venv/bin/python -m benchmarks.report

chaos: .venv/stamp  ## Kill, stop and damage runs; ARGS=--full for all of it.
	.venv/bin/python -m tests.chaos $(ARGS)

clean:  ## Remove environments and caches; runs stay.
	rm -rf .venv .venv-parity .cache .pytest_cache .ruff_cache build dist

.venv/stamp: requirements.txt requirements-dev.txt
.venv-parity/stamp: requirements.txt requirements-dev.txt \
  requirements-parity.txt

.venv/stamp: PINS = requirements-dev.txt
.venv-parity/stamp: PINS = requirements-parity.txt

# A failed install leaves no stamp, so the next call goes on where it ended.
%/stamp:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  (3, 11) <= v <= (3, 13) or sys.exit("$(PYTHON) is Python %d.%d; 3.11, \
	3.12 or 3.13 is needed: make PYTHON=python3.12" % v)'
	@echo 'Installing $(PINS) into $(@D) ...'
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/$(PIP) install --quiet -r $(PINS)
	@touch $@

# Pins anew from the ranges of pyproject.toml. Python 3.11 chooses, because
# what it can install, 3.12 and 3.13 can too; CONTRIBUTING.md has the check.
# torch's local version (+cpu, +cu130) is the machine's, and is left out.
requirements:  ## Re-pin requirements*.txt, with Python 3.11.
	rm -rf build/pins && $(PYTHON) -m venv build/pins
	build/pins/$(PIP) install --quiet .
	$(call pins) >requirements.txt
	build/pins/$(PIP) install --quiet '.[dev]'
	(echo '-r requirements.txt'; $(call pins) | grep -vxFf requirements.txt) \
	  >requirements-dev.txt
	build/pins/$(PIP) install --quiet '.[parity]'
	(echo '-r requirements-dev.txt'; $(call pins) \
	  | grep -vxFf requirements.txt | grep -vxFf requirements-dev.txt) \
	  >requirements-parity.txt

pins = build/pins/$(PIP) freeze --exclude ldm_jax --exclude setuptools \
  | sed 's/+.*//'
