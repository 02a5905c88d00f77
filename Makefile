# make demo       the example world: simulate, pretrain, fine-tune and evaluate four regions, one table
# make test       the whole test suite, with ruff and mypy
# make realdata   the same main job on real profiles (REALDATA=folder)
# make bench      speed, as ratios measured side by side
# make clean      remove what these made (not the virtual environment)

PYTHON ?= python3
BIN := .venv/bin
REALDATA ?= ../shared/realdata
SIM_REGIONS := anhui switzerland denmark australia
REAL_REGIONS := south_brazil kenya south_africa north_macedonia

.PHONY: demo test realdata bench clean

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

.venv/installed-test: .venv/installed requirements-test.txt
	$(BIN)/pip install --quiet -r requirements-test.txt
	touch $@

demo: .venv/installed
	$(BIN)/python simulate.py
	$(BIN)/python train_global.py
	for region in $(SIM_REGIONS); do \
	  $(BIN)/python train_regional.py --config configs/sim_regional.yaml --run $$region --data_dir data/sim/$$region && \
	  $(BIN)/python pred.py --config configs/sim_regional.yaml --run $$region --data_dir data/sim/$$region || exit; \
	done
	$(BIN)/python compare.py --runs $(SIM_REGIONS)
	@echo "Figures: results/<region>/*.png.  Logs: $(BIN)/tensorboard --logdir log"

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

clean:
	rm -rf data/sim data/real model/*.pth model/*.yaml model/pretrain_model log/*/ results/*/
