#!/usr/bin/env bash
# The main job, visible: the quickstart lab comes up, workloads get their addresses over gRPC, the controller tells the
# fabric about them over BGP EVPN, and everybody pings everybody, a bare-metal server behind a switch included.
# The lab stays up to look around in; `DEMO_DOWN=1 make demo` takes it down at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

lab=labs/quickstart
causeway=${CARGO_TARGET_DIR:-target}/debug/causeway
network=web
server=bm1 server_address=10.100.0.250
# node workload
workloads=(host1 web-1 host1 web-2 host2 db-1 host2 db-2)

if ((EUID != 0)); then exec sudo --preserve-env=CARGO_TARGET_DIR,CAUSEWAY_CACHE,FRR_IMAGE,DEMO_DOWN "$0" "$@"; fi
export PATH=$PATH:/usr/sbin:/sbin

begin=$(date +%s%N)
bold='' dim='' off=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; fi
step() { printf '\n%s[%5.1f s] %s%s\n' "$bold" "$((($(date +%s%N) - begin) / 100000000))e-1" "$*" "$off"; }
die() { printf 'demo: %s\nThe lab is left as it is: %s lab inspect -t %s\n' "$*" "$causeway" "$lab" >&2; exit 1; }
on() { "$causeway" lab exec -t "$lab" --node "$1" -- "${@:2}"; }

step "bring the lab up: $lab (FRR image ${FRR_IMAGE:-causeway/frr:8.4})"
"$causeway" lab down -t "$lab" >/dev/null 2>&1 || true
"$causeway" lab up -t "$lab"

step "declare network, subnets, nodes and the BGP peer (causeway apply)"
on ctl causeway apply -f /etc/causeway/resources.yaml

step "ask for ports by name; the answer has IP and MAC (causeway port create)"
for ((i = 0; i < ${#workloads[@]}; i += 2)); do
  node=${workloads[i]} name=${workloads[i + 1]}
  on "$node" ip netns add "$name"
  on ctl causeway port create "$network/$name" --bind-node "$node" --netns "/run/netns/$name" \
    --wait advertised --timeout 20s
done

step "ports, hosts and BGP sessions as the controller sees them"
on ctl causeway get ports
on ctl causeway node list
on ctl causeway bgp peers

step "every pair pings over VXLAN, the bare-metal server included"
names=() nodes=() addresses=()
for ((i = 0; i < ${#workloads[@]}; i += 2)); do
  nodes+=("${workloads[i]}") names+=("${workloads[i + 1]}")
  addresses+=("$(on ctl causeway get port "$network/${workloads[i + 1]}" -o json | jq -r '.addresses[0]')")
done
names+=("$server") nodes+=("$server") addresses+=("$server_address")

# inside NUMBER COMMAND...: runs where workload NUMBER lives
inside() {
  if [[ ${names[$1]} == "$server" ]]; then on "$server" "${@:2}"; else on "${nodes[$1]}" ip netns exec "${names[$1]}" "${@:2}"; fi
}
# One batch a source: all its pings at once.
failed=0
printf '%-22s' 'from \ to'
for name in "${names[@]}"; do printf '%-14s' "$name"; done
printf '\n'
for a in "${!names[@]}"; do
  printf '%-22s' "${names[a]} (${addresses[a]})"
  for b in "${!names[@]}"; do
    if [[ $a == "$b" ]]; then printf '%-14s' '-'; continue; fi
    if rtt=$(inside "$a" ping -n -c 3 -i 0.2 -W 2 "${addresses[b]}" 2>/dev/null | awk -F'[=/ ]+' '/^rtt/ { print $7 " ms" }') && [[ $rtt ]]; then
      printf '%-14s' "$rtt"
    else
      printf '%-14s' 'LOST'
      failed=1
    fi
  done
  printf '\n'
done

step "no NAT: the receiver sees the sender's own address"
proof() { # FROM TO INTERFACE: numbers, and where TO listens
  local seen
  seen=$(inside "$2" timeout 10 tcpdump -nn -l -c 1 -i "$3" 'icmp[icmptype] == icmp-echo' 2>/dev/null &
    for _ in 1 2 3 4 5 6 7 8 9 10; do inside "$1" ping -n -c 1 -W 1 "${addresses[$2]}" >/dev/null 2>&1 || true; done
    wait)
  printf '%-6s receives: %s%s%s\n' "${names[$2]}" "$dim" "${seen#* }" "$off"
  [[ $seen == *"${addresses[$1]} > ${addresses[$2]}"* ]] || failed=1
}
proof 0 $((${#names[@]} - 1)) eth1
proof $((${#names[@]} - 1)) 0 eth0
proof 0 2 eth0
rules=$(for node in host1 host2 leaf1 leaf2; do on "$node" sh -c 'command -v nft >/dev/null && nft list ruleset | grep -c "dnat\|snat\|masquerade" || true'; done | awk '{ n += $1 } END { print n + 0 }')
printf 'NAT rules on hosts and leaves: %s\n' "$rules"

step "the EVPN routes as FRR on leaf1 shows them"
on leaf1 vtysh -c 'show bgp l2vpn evpn route' | sed -n '/Network/,$p'

step "$([[ $failed == 0 ]] && echo 'everything talks to everything' || echo 'SOMETHING DOES NOT WORK, see above')"
cat <<TEXT

Look around (as root):
  $causeway lab inspect -t $lab                                   the nodes
  $causeway lab exec -t $lab --node ctl -- causeway get ports     what the controller knows
  $causeway lab exec -t $lab --node ctl -- causeway bgp explain ${addresses[0]}
  $causeway lab exec -t $lab --node leaf2 -- vtysh                 the switch's own shell
  $causeway lab exec -t $lab --node host1 -- bridge fdb            what the agent programmed
  $causeway lab logs -t $lab ctl                                   what the controller says
Stop it:
  $causeway lab down -t $lab
TEXT
if [[ ${DEMO_DOWN:-} ]]; then "$causeway" lab down -t "$lab"; fi
exit "$failed"
