# Thin names for the tasks of xtask: `cargo xtask --help` lists them all.
.PHONY: run stop test tidy

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
