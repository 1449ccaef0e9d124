# The commands of this project. A thin layer over cargo and `cargo xtask`; see CONTRIBUTING.md.
.DEFAULT_GOAL := help
.PHONY: help demo test fast clients reference kill power bench deny fuzz leftovers

# program:package pairs. What is missing is installed with apt-get, after saying so in one line.
NEEDS_BUILD := cc:build-essential
NEEDS_RUN   := busybox:busybox-static
NEEDS_TEST  := bash:bash jq:jq python3:python3 script:bsdutils mkfs.ext4:e2fsprogs

define need
	@missing=$$(for pair in $(1); do command -v $${pair%%:*} >/dev/null 2>&1 || echo $${pair##*:}; done); \
	if [ -n "$$missing" ]; then \
	  echo "installing with apt-get:" $$missing; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@[ "$$(id -u)" = 0 ] || { echo "starting real containers needs root: run this as root"; exit 1; }
endef

# cargo-nextest runs tests in parallel processes; plain cargo test does without it.
ifneq ($(shell command -v cargo-nextest),)
  RUN_TESTS = cargo nextest run --workspace --no-fail-fast
else
  RUN_TESTS = cargo test --workspace --no-fail-fast
endif

help:
	@echo "make demo       real containers on a scratch engine: build, run, serve, kill the engine, clean up"
	@echo "make test       everything a change must pass: format, layers, lints, unit and black-box tests, leftovers"
	@echo "make fast       the same without the black-box tests"
	@echo "make clients    install the Docker clients that the tests drive (done by make test, where their registries can be reached)"
	@echo "make reference  prove the recorded sessions and the harness on the real Docker (../shared/peers)"
	@echo "make kill       200 kill -9 of the engine among 20 busy containers"
	@echo "make points     a death or failure at every change of every operation (F2, F3); POINTS=1/10 for a tenth"
	@echo "make disturb    1,000 deaths of the engine among 100 containers with streams, then of every shim (F4)"
	@echo "make leaks      20,000 runs, 20,000 execs, 5,000 aborted attaches, and what they leave (F5)"
	@echo "make stuck      an hour of work beside everything that can be stuck (F9)"
	@echo "make power      100 power cuts under loads, tags, removals and pulls, everything hashed again after each"
	@echo "make bench      budgets P1 to P5 side by side with the peers; ONLY=P2 for one, writes docs/benchmarks.md"
	@echo "make fuzz       every fuzz target for two minutes (needs a nightly compiler and cargo-fuzz)"
	@echo "make deny       licences and advisories of the dependencies (needs cargo-deny)"

demo:
	$(call need,$(NEEDS_BUILD) $(NEEDS_RUN))
	cargo build --release --bins --workspace --exclude xtask
	@cargo xtask demo

test:
	$(call need,$(NEEDS_BUILD) $(NEEDS_RUN) $(NEEDS_TEST))
	cargo fmt --all --check
	cargo xtask layers
	cargo xtask tail
	cargo clippy --workspace --all-targets -- -D warnings
	cargo build --workspace
	@$(MAKE) --no-print-directory clients
	@mkdir -p target && cargo xtask leftovers --record target/leftovers-before
	$(RUN_TESTS)
	cargo xtask leftovers --since target/leftovers-before

# docker-py, Testcontainers, dockerode and the dev containers command line, for crates/testkit/tests/clients.rs.
CLIENTS := crates/testkit/tests/clients
clients: target/clients/ready
target/clients/ready: $(CLIENTS)/requirements.txt $(CLIENTS)/package.json
	@mkdir -p target/clients && echo "installing the clients of the tests into target/clients"
	@cd target/clients && rm -f ready && cp ../../$(CLIENTS)/package.json . && \
	  timeout 300 sh -c 'python3 -m venv venv && venv/bin/pip install -q --disable-pip-version-check -r ../../$(CLIENTS)/requirements.txt && \
	  npm install --silent --no-audit --no-fund --ignore-scripts --omit=optional' && touch ready || \
	  echo "the clients cannot be installed (python3-venv, npm and their registries are needed): their tests will be skipped"

fast:
	cargo fmt --all --check
	cargo xtask layers
	cargo xtask tail
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace --lib --bins

reference:
	WHARF_TEST_REFERENCE=1 cargo test -p wharf-testkit -- --nocapture real_docker

kill:
	cargo build --workspace
	WHARF_TEST_KILLS=200 cargo test -p wharf-testkit --test kill -- --nocapture killing

POINTS ?= all
points:
	cargo build --workspace
	WHARF_TEST_POINTS=$(POINTS) cargo test -p wharf-testkit --test points -- --nocapture --test-threads 1

disturb:
	cargo build --workspace
	WHARF_TEST_DISTURBANCES=1000 cargo test -p wharf-testkit --test disturbed -- --nocapture

leaks:
	cargo build --workspace
	WHARF_TEST_LEAKS=20000 cargo test -p wharf-testkit --test leaks -- --nocapture --test-threads 1

stuck:
	cargo build --workspace
	WHARF_TEST_STUCK=3600 cargo test -p wharf-testkit --test stuck -- --nocapture one_stuck

power:
	cargo build --workspace
	WHARF_TEST_CUTS=100 cargo test -p wharf-testkit --test power -- --nocapture

bench:
	bench/run $(ONLY) --write

deny:
	cargo deny check

SECONDS_EACH ?= 120
fuzz:
	cd fuzz && for target in $$(cargo +nightly fuzz list); do mkdir -p corpus/$$target && \
	  cargo +nightly fuzz run -O -a -s none $$target corpus/$$target seeds/$$target -- -max_total_time=$(SECONDS_EACH) || exit 1; done

leftovers:
	cargo xtask leftovers
