# Thin names for the tasks of xtask: `cargo xtask --help` lists them all.
.PHONY: run stop test tidy

# Where rustup cannot fetch the pinned toolchain, the default one will do if it is the same version.
PINNED := $(shell sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
ifneq ($(shell cargo --version >/dev/null && echo works),works)
  ifneq ($(findstring rustc $(PINNED) ,$(shell cd / && rustc --version)),)
    export RUSTUP_TOOLCHAIN := $(firstword $(shell cd / && rustup show active-toolchain))
    $(info the pinned toolchain is not installed: taking $(RUSTUP_TOOLCHAIN), which is Rust $(PINNED) too)
  else
    $(error Rust $(PINNED) is needed: `rustup toolchain install $(PINNED)`)
  endif
endif

# Start a node of your own with a sample pod. Ctrl-C stops the agent, the containers go on.
run:
	@cargo xtask up

# Remove everything that `make run` made.
stop:
	@cargo xtask down

# Everything that CI runs.
test:
	@cargo xtask test

# The rules that no compiler checks.
tidy:
	@cargo xtask tidy
