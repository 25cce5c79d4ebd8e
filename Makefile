# make demo          trains a character GPT on the shipped texts and writes a sample, a curve and the weights to ./out
# make test          all tests; installs the software Vulkan driver first where none is found and apt allows it
# make lint          formatting and clippy
# make conformance DIR=...   compares every case below DIR, at any depth, with PyTorch's outputs and gradients;
#                            ARGS="--device software --known FILE" for another device, and a list of known failures

CARGO ?= cargo
OUT ?= out
DIR ?= tests/conformance
ARGS ?=
VULKAN_PACKAGES = mesa-vulkan-drivers libvulkan1

.PHONY: demo test lint conformance vulkan

demo:
	$(CARGO) run --example train_gpt -- --out $(OUT) $(ARGS)

test: vulkan
	$(CARGO) test --no-run
	@echo "device tests run on the software adapter, if doctor finds one:"
	@$${CARGO_TARGET_DIR:-target}/debug/inductor doctor --device cpu
	$(CARGO) test $(ARGS)

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

conformance:
	$(CARGO) run -- check $(DIR) --grad $(ARGS)

# Device tests need some Vulkan driver; the software one runs everywhere. Other systems bring their own drivers.
vulkan:
	@set -u; \
	[ "$$(uname -s)" = Linux ] || exit 0; \
	found="$${VK_DRIVER_FILES:-}$${VK_ICD_FILENAMES:-}$$(ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json /usr/local/share/vulkan/icd.d/*.json 2>/dev/null | head -n 1)"; \
	[ -n "$$found" ] && exit 0; \
	echo "no Vulkan driver found"; \
	if [ "$$(id -u)" = 0 ]; then as_root=""; elif sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="none"; fi; \
	if [ "$$as_root" != none ] && command -v apt-get >/dev/null; then \
		echo "installing $(VULKAN_PACKAGES)"; \
		{ DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y $(VULKAN_PACKAGES) >/dev/null 2>&1 || \
			{ $$as_root apt-get update >/dev/null && DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y $(VULKAN_PACKAGES) >/dev/null; }; } && exit 0; \
	fi; \
	echo "device tests will be skipped; to run them, install a Vulkan driver, on Debian and Ubuntu: apt-get install $(VULKAN_PACKAGES)"
