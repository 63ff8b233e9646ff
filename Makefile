PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: coverage demo peers r50 test triton
.DEFAULT_GOAL := test

# torch goes first and alone: packages that find it missing would choose a build of their own.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch hatchling editables
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

# What users pick instead of this library, in an environment of its own. torch goes first and alone here too. mmaction2 and
# pytorchvideo declare video readers that their networks do not need, and one of them owns the same cv2: they go in without
# what they declare. A line that fails (-) costs one contestant, which the comparison then reports.
PEERS := .venv-peers
PEERS_PIP := $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint bench/peers/constraints.txt --no-build-isolation

$(PEERS)/.installed: bench/peers/constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) torch hatchling editables setuptools
	$(PEERS_PIP) click numpy opencv-python pydantic rich safetensors onnx onnxruntime onnxscript openvino
	$(PEERS_PIP) --no-deps --editable .
	-$(PEERS_PIP) addict einops matplotlib pillow pyyaml scipy termcolor yapf
	-$(PEERS_PIP) --no-deps mmaction2 mmcv-lite mmengine
	-$(PEERS_PIP) fvcore iopath
	-$(PEERS_PIP) --no-deps pytorchvideo torchvision
	touch $@

peers: $(VENV)/.installed $(PEERS)/.installed
	$(BIN)/python bench/peers/compare.py

# A Triton server with its Python backend, without Docker: nvidia-pytriton's, which is 24.10 and cannot read arrays of
# NumPy 2. It declares a package for serving functions, which is not used; this library goes in without what it pins. ONNX
# Runtime, of which the tests need nothing that it declares either, stands for Triton's backend of it.
TRITON := .venv-triton

$(TRITON)/.installed: pyproject.toml
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python -m pip install --quiet --disable-pip-version-check hatchling editables \
		numpy==1.26.4 opencv-python==4.11.0.86 click pydantic rich
	$(TRITON)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps nvidia-pytriton==0.7.0 \
		onnxruntime==1.32.0 flatbuffers
	$(TRITON)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Backends of engines that were built apart are used too: make triton TRITON_BACKENDS=folder.
triton: $(VENV)/.installed $(TRITON)/.installed
	TRITON_BACKENDS="$(TRITON_BACKENDS)" $(BIN)/pytest -v tests/test_triton_server.py

demo: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash bench/demo.sh

# make r50 VIDEO=clip.mp4 runs it on your video.
r50: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash bench/r50_speed.sh $(if $(VIDEO),"$(VIDEO)")

NATIVE := $(wildcard i3d_deploy/include/*.h* $(addprefix export/cpp/,src/*.?pp src/*/*.cpp apps/*.cpp example/*.cpp tests/*.c*))

# A process for each core; the tests of a file stay in one.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)
	$(BIN)/pytest $(PARALLEL)

coverage: $(VENV)/.installed
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=term:skip-covered
