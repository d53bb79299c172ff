# Sourced: a Docker Engine to work with. One that answers is used as it is. Otherwise Debian's is installed and started for
# as long as the script runs, in a network namespace of its own, so that the machine's links and firewall stay untouched.
#
#   docker_start; trap docker_stop EXIT; in_docker_namespace COMMAND…
#
# With DOCKER_IMAGES_OF, an Engine that is started on a root in memory has the images of another one's data directory.
# "docker_start nat [NAMESPACE]" starts one of its own in any case, as Docker comes: with its bridge, its iptables and NAT;
# with DOCKER_DIR its files go there.

docker_dir=
docker_netns=
docker_own_netns=
docker_pid=
docker_lock=

# What is missing of the capabilities that Docker gives to privileged containers: inside some containers and virtual
# machines not all are there, and runc refuses to start what asks for more.
missing_capabilities() {
  local names=(CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE
    SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
    SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE)
  local bound number
  bound=$((16#$(awk '/^CapBnd/ { print $2 }' /proc/self/status)))
  for number in "${!names[@]}"; do
    if (((bound >> number & 1) == 0)); then printf '"CAP_%s"\n' "${names[number]}"; fi
  done | paste -sd,
}

# A runc that does not ask for what cannot be had.
write_runtime() {
  local missing
  missing=$(missing_capabilities)
  [[ -n $missing ]] || return 1
  cat > "$docker_dir/runc" <<RUNTIME
#!/usr/bin/env bash
set -e
lower='(.capabilities // {}) |= map_values(map(select(IN(\$missing[]) | not))) | .rlimits = [] | del(.oomScoreAdj)'
rewrite() { if [ -f "\$2" ]; then jq --argjson missing '[$missing]' "\$1" "\$2" > "\$2.new"; cat "\$2.new" > "\$2"; rm "\$2.new"; fi; }
words=("\$@")
for i in "\${!words[@]}"; do
  case \${words[i]} in
    --bundle) rewrite ".process |= (\$lower)" "\${words[i+1]}/config.json" ;;
    --process) rewrite "\$lower" "\${words[i+1]}" ;;
  esac
done
exec $(command -v runc) "\$@"
RUNTIME
  chmod +x "$docker_dir/runc"
}

# share_images FROM TO: the images in another Engine's data directory are this one's, too, without a copy: layers of images
# are only ever read, by the kernel, wherever they lie. To load them from an archive takes minutes in a guest.
share_images() {
  local layer
  mkdir -m 710 "$2/overlay2"
  cp -r "$1/image" "$2"
  cp -dr "$1/overlay2/l" "$2/overlay2/l"
  for layer in "$1"/overlay2/*; do
    if [[ -e $layer/committed || -d $layer/diff ]]; then ln -s "$layer" "$2/overlay2/"; fi
  done
}

docker_start() {
  local nat=${1:-}
  if [[ -z $nat ]] && docker version >/dev/null 2>&1; then return; fi
  if ! command -v dockerd >/dev/null || { ! mountpoint -q /sys/fs/cgroup && ! command -v cgroupfs-mount >/dev/null; }; then
    EXTRA_PACKAGES="docker.io cgroupfs-mount" scripts/setup.sh
  fi
  local cache=${CAUSEWAY_CACHE:-/var/cache/causeway} options=()
  docker_dir=${DOCKER_DIR:-$(mktemp -d /run/causeway-docker.XXXXXX)}
  mkdir -p "$docker_dir"
  docker_netns=${2:-}
  if [[ -z $docker_netns ]]; then
    docker_netns=$(basename "$docker_dir")
    ip netns add "$docker_netns"
    docker_own_netns=1
  fi
  mountpoint -q /sys/fs/cgroup || cgroupfs-mount
  mkdir -p "$cache"
  local data=$cache/docker
  if [[ $nat == nat ]]; then
    # Its images go with it: a data directory has one dockerd at a time.
    data=$docker_dir/data
  else
    options+=(--iptables=false --ip-masq=false --bridge=none)
  fi
  # Layers cannot lie on an overlay, which the root of containers and of guests is: they are kept in memory.
  if [[ $data != "$docker_dir"/* && $(stat -f -c %T "$(dirname "$data")" 2>/dev/null || stat -f -c %T /) == overlayfs ]]; then
    data=$docker_dir/data
    mkdir "$data"
    mount -t tmpfs -o size=80% tmpfs "$data"
    if [[ -n ${DOCKER_IMAGES_OF:-} ]]; then share_images "$DOCKER_IMAGES_OF" "$data"; fi
  fi
  if [[ $data != "$docker_dir"/* ]]; then
    # A data directory has one dockerd at a time.
    exec {docker_lock}> "$data.lock"
    flock --nonblock "$docker_lock" || { echo "docker: waiting for another run to end"; flock "$docker_lock"; }
  fi
  if write_runtime; then options+=(--add-runtime "lower=$docker_dir/runc" --default-runtime lower); fi
  in_docker_namespace ip link set lo up
  in_docker_namespace sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
  export DOCKER_HOST=unix://$docker_dir/docker.sock
  {
    # The lock is the script's alone: a container's process that lives a little longer must not hold it.
    if [[ -n $docker_lock ]]; then exec {docker_lock}>&-; fi
    in_docker_namespace setsid dockerd --data-root "$data" --exec-root "$docker_dir/exec" -H "$DOCKER_HOST" \
      --pidfile "$docker_dir/pid" "${options[@]}"
  } > "$docker_dir/log" 2>&1 < /dev/null &
  docker_pid=$!
  local deadline=$((SECONDS + 60))
  until docker version >/dev/null 2>&1; do
    if ((SECONDS > deadline)) || ! kill -0 "$docker_pid" 2>/dev/null; then
      tail -n 20 "$docker_dir/log" >&2
      echo "docker: dockerd does not start (its last lines are above)" >&2
      return 1
    fi
    sleep 0.2
  done
}

# Where dockerd works, and containerlab must: the machine itself, or the namespace made above. nsenter, because "ip netns
# exec" would hide what is mounted below /run/netns from everybody else.
in_docker_namespace() {
  if [[ -n $docker_netns ]]; then nsenter --net="/run/netns/$docker_netns" "$@"; else "$@"; fi
}

docker_stop() {
  [[ -n $docker_dir ]] || return 0
  if [[ -s $docker_dir/pid ]]; then
    local pid deadline=$((SECONDS + 30))
    pid=$(cat "$docker_dir/pid")
    kill "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.1; done
  fi
  if [[ -n $docker_own_netns ]]; then ip netns del "$docker_netns" 2>/dev/null || true; fi
  awk -v dir="$docker_dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount 2>/dev/null || true
  rm -rf --one-file-system "$docker_dir"
  if [[ -n $docker_lock ]]; then exec {docker_lock}>&-; fi
}
