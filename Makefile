# make demo       the example world: simulate, pretrain, fine-tune, evaluate and map four regions (SEED=1: another world)
# make test       the test suite, with ruff and mypy
# make test-all   the same, and what takes long: processes killed at random, torchrun, a Dask cluster, a browser, the notebook and
#                 most pages, further cases of tests of which one case is quick (conftest.slow_but)
# make realdata   the same on real profiles and rasters (REALDATA=folder); with layers of 0.05 degrees, further profiles and
#                 regions with covariates of their own where they are there (REALDATA2=folder)
# make compare    after make realdata: the network against every baseline, on the same folds; hours of one core (CONFIG=file)
# make drivers    drivers of soil carbon: the example world with its process model, then the real profiles if they are there
# make zoned      forests by climate zone on a simulated dataset resembling China (relationships that differ between zones, and that do not), and maps by period
# make bench      speed, memory and growth, as ratios measured side by side -> results/bench/*.json
# make bench-cuda the same on a CUDA device
# make api        docs/api.md from the docstrings
# make docs       the documentation as a site: site/index.html

PYTHON ?= python3
BIN := .venv/bin
REALDATA ?= ../shared/realdata
REALDATA2 ?= ../shared/realdata2
SEED ?= 314
CONFIG ?= configs/realdata_compare.yaml
SIM_REGIONS := anhui switzerland denmark australia

.PHONY: demo test test-all realdata compare drivers zoned bench bench-cuda api docs

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

.venv/installed-test: .venv/installed requirements-test.txt
	$(BIN)/pip install --quiet -r requirements-test.txt
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet mkdocs-material==9.8.2
	touch $@

demo: .venv/installed
	$(BIN)/python -m soilcarbon simulate --seed $(SEED)
	$(BIN)/python train_global.py --config configs/sim_global.yaml --seed $(SEED)
	for region in $(SIM_REGIONS); do \
	  $(BIN)/python train_regional.py --config configs/sim_regional.yaml --run $$region --data_dir data/sim/$$region --seed $(SEED) && \
	  $(BIN)/python pred.py --config configs/sim_regional.yaml --run $$region --data_dir data/sim/$$region && \
	  $(BIN)/python -m soilcarbon map --checkpoint model/$$region.pth --rasters data/sim/$$region/rasters --against data/sim/$$region/truth.tif \
	    || exit; \
	done
	$(BIN)/python -m soilcarbon compare --runs $(SIM_REGIONS)
	@echo "Maps: results/<region>/soc.html.  Figures: results/<region>/*.png.  Logs: $(BIN)/tensorboard --logdir log"

FINE := $(wildcard $(REALDATA2)/global_0p05deg/cov_*.tif)
FINE := $(filter-out %cov_koppen_1km.tif,$(FINE))
WORLD_RASTERS := $(wildcard $(REALDATA)/global/cov_*.tif) $(FINE)
WORLD_POINTS := $(wildcard $(REALDATA)/global/points.csv $(REALDATA2)/profiles_world2/points.csv)
WORLD_CONFIG := configs/$(if $(FINE),realdata_fine,realdata_global).yaml
WORLD := model/pretrain_model/realdata.pth

# A region with rasters of its own: name, points, rasters, further settings of prepare and of map.
define local_region
	$(BIN)/python -m soilcarbon prepare --points $(2) --target soc_gkg --rasters $(3) --world_rasters $(WORLD_RASTERS) \
	  --global_data data/real/global --block_size 0.1 $(4) --out data/real/$(1)
	$(BIN)/python train_regional.py --config configs/taught.yaml --run $(1) --data_dir data/real/$(1) --init_from $(WORLD) \
	  --global_data data/real/global
	$(BIN)/python pred.py --checkpoint model/$(1).pth --data_dir data/real/$(1)
	$(BIN)/python -m soilcarbon map --checkpoint model/$(1).pth --rasters $(3) $(WORLD_RASTERS) $(5)
endef

realdata: .venv/installed
	@test -f $(REALDATA)/regions.csv || { echo "no real profiles in $(REALDATA); give REALDATA=folder"; exit 2; }
	$(BIN)/python experiments/realdata_points.py $(WORLD_POINTS) --out data/real/points.csv
	$(BIN)/python -m soilcarbon prepare --config $(WORLD_CONFIG) --points data/real/points.csv --target soc_gkg \
	  --rasters $(WORLD_RASTERS) --split blocks --block_size 0.5 --out data/real/global
	$(BIN)/python train_global.py --config $(WORLD_CONFIG)
	tail -n +2 $(REALDATA)/regions.csv | while IFS=, read -r region west east south north; do \
	  $(BIN)/python -m soilcarbon prepare --points data/real/points.csv --target soc_gkg --rasters $(WORLD_RASTERS) \
	    --global_data data/real/global --bounds $$west $$east $$south $$north --out data/real/$$region && \
	  $(BIN)/python train_regional.py --config configs/taught.yaml --run $$region --data_dir data/real/$$region \
	    --init_from $(WORLD) --global_data data/real/global && \
	  $(BIN)/python pred.py --checkpoint model/$$region.pth --data_dir data/real/$$region && \
	  $(BIN)/python -m soilcarbon map --checkpoint model/$$region.pth --rasters $(WORLD_RASTERS) --mask $(REALDATA)/global/landmask.tif \
	    --bounds $$west $$east $$south $$north || exit; \
	done
	$(BIN)/python -m soilcarbon map --checkpoint $(WORLD) --rasters $(WORLD_RASTERS) --nodata "bmng_*=none" \
	  --like $(REALDATA)/global/landmask.tif --mask $(REALDATA)/global/landmask.tif --out results/world/soc.tif
	$(call local_region,north_macedonia_1km,$(REALDATA)/north_macedonia/points.csv,$(REALDATA)/north_macedonia/cov_*.tif,--nodata "S*ESA4=254",--mask $(REALDATA)/north_macedonia/mask.tif)
	@test -d $(REALDATA2) || echo "no further real data in $(REALDATA2): without layers of 0.05 degrees and two regions"
ifneq ($(wildcard $(REALDATA2)/xuancheng_anhui),)
	$(call local_region,xuancheng,$(REALDATA2)/xuancheng_anhui/points.csv,$(REALDATA2)/xuancheng_anhui/cov_topography_climate.tif)
	$(call local_region,amhara,$(REALDATA2)/amhara_ethiopia/points.csv,$(REALDATA2)/amhara_ethiopia/cov_1km.tif)
endif
	$(BIN)/python -m soilcarbon compare --runs $$(tail -n +2 $(REALDATA)/regions.csv | cut -d, -f1) --out results/skill_realdata

compare: .venv/installed
	$(BIN)/python -m soilcarbon compare --config $(CONFIG) --resume

drivers: .venv/installed
	@test -f data/sim/global/cSoil.nc || $(BIN)/python -m soilcarbon simulate --seed $(SEED)
	$(BIN)/python -m soilcarbon drivers --resume
	@test ! -d data/real/global || $(BIN)/python -m soilcarbon drivers --config configs/realdata_drivers.yaml --resume

zoned: .venv/installed
	for world in china china_unzoned; do \
	  $(BIN)/python -m soilcarbon simulate --world $$world --profiles 2500 --cell 0.25 --seed $(SEED) && \
	  $(BIN)/python -m soilcarbon densities --horizons data/sim/$$world/horizons.csv --out data/sim/$$world/densities.csv || exit; \
	done
	$(BIN)/python -m soilcarbon zones --config configs/sim_zoned.yaml --seed $(SEED) --resume
	$(BIN)/python -m soilcarbon zones --config configs/sim_zoned.yaml --seed $(SEED) --resume --run sim_unzoned \
	  --samples data/sim/china_unzoned/densities.csv --rasters data/sim/china_unzoned/rasters --periods data/sim/china_unzoned/periodic
	$(BIN)/python experiments/zoned_figure.py
	for depth in 0_20 0_100; do \
	  $(BIN)/python -m soilcarbon map --checkpoint model/sim_zoned_socd_$$depth.npz --rasters data/sim/china/rasters \
	    --periods data/sim/china/periodic --out results/sim_zoned_map/socd_$$depth.tif || exit; \
	done
	$(BIN)/python experiments/zoned_truth.py

bench: .venv/installed
	$(BIN)/python benchmarks/epoch_speed.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/map_speed.py
	$(BIN)/python benchmarks/map_memory.py

bench-cuda: .venv/installed
	$(BIN)/python benchmarks/cuda_speed.py
	$(BIN)/python benchmarks/map_speed.py

api: .venv/installed
	$(BIN)/python docs/make_api.py

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html; with search: $(BIN)/python -m http.server --directory site"

test test-all: export PYTHONDONTWRITEBYTECODE := # compiled modules are kept: to collect the tests takes half as long next time

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --doctest-modules tests soilcarbon models.py

test-all: test .venv/installed-docs
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow
