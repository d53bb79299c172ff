# What there is to do here; `make` alone lists it.

.DEFAULT_GOAL := help
.PHONY: help setup build demo wait-static test test-fabric test-moves bench bench-failover bench-datapath bench-migrate test-chaos bench-containers lint fuzz images test-containerlab clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing from Debian (asks nothing, safe to repeat)
	@scripts/setup.sh

build: setup ## build everything
	cargo build --workspace --locked

wait-static: ## causeway-wait linked statically, for any image (1.3 MB)
	@scripts/build-wait.sh

demo: build ## an EVPN fabric on this machine: switches, hosts, a bare-metal server, and pings between all of them
	@scripts/demo.sh

test: setup ## every test, as root where needed, against real FRR, GoBGP and etcd
	@scripts/peers.sh
	@scripts/test.sh

bench: setup ## figures, each beside its yardstick (release build, takes a while)
	@scripts/peers.sh
	@scripts/bench.sh

test-fabric: build ## labs whose switches do VXLAN, from end to end, each on both FRRs, in guests where the kernel lacks VLANs (half an hour)
	@scripts/peers.sh
	cargo test --locked -p causeway-tests --test tor_offload --test fabric_labs

test-moves: build ## ports that move between hosts, and between VMs, containers and bare metal, 25 times and back under pings, and every way in which that is refused (a quarter of an hour)
	@scripts/peers.sh
	cargo test --locked -p causeway-tests --test migrate --test migrate_vm -- --nocapture --test-threads 1

test-chaos: build ## everything fails at random, with a fixed and a random seed on both etcds, two minutes each: CHAOS_SEED repeats a run, CHAOS_SECONDS sets the time
	@scripts/peers.sh
	@scripts/chaos.sh

bench-containers: setup ## a hundred and fifty containers on two hosts, requested at once: the time of each stage
	@scripts/peers.sh
	@scripts/bench.sh containers

bench-failover: setup ## forty hosts, and what the loss of a controller, an agent, a leaf's sessions and a spine costs
	@scripts/peers.sh
	@scripts/bench.sh failover

bench-datapath: setup ## throughput and latency of each attachment, beside bare hosts and Docker's NAT
	@scripts/bench.sh datapath

bench-migrate: setup ## what moves cost, VM to container and back, on both FRRs, beside the same by hand (a quarter of an hour)
	@scripts/peers.sh
	@scripts/bench.sh migrate

lint: setup ## format, clippy, documentation, licences
	@scripts/lint.sh

fuzz: setup ## mutated messages against the decoders; FUZZ_SECONDS=60 sets the time
	@scripts/fuzz.sh

images: build ## the labs' images for Docker (FRR, agent, controller, server, etcd), built here, nothing pulled
	@labs/images/build.sh --docker

test-containerlab: setup ## labs under the real containerlab (from CONTAINERLAB or the path), with the same checks
	@scripts/test-containerlab.sh

clean: ## remove what was built here
	cargo clean
	rm -rf fuzz/target fuzz/artifacts
