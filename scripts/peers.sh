#!/usr/bin/env bash
# The peers that are newer than this Debian's, for the tests and benchmarks: FRR 10.7 (a root directory from a later
# Debian suite), GoBGP 4 and etcd 3.7 (built from Go modules whose checksums are in scripts/peers/). They are kept in
# ${CAUSEWAY_CACHE:-/var/cache/causeway}; what is there already is not built again.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${CAUSEWAY_CACHE:-/var/cache/causeway}
bin=$cache/bin
# From this version on, Go fetches the toolchain a module asks for by itself.
go_needed=1.21

say() { printf '%s\n' "$*"; }
die() { printf 'peers: %s\n' "$*" >&2; exit 1; }

if ! mkdir -p "$bin" 2>/dev/null || [[ ! -w $bin ]]; then
  die "cannot write to $bin: run as root, or set CAUSEWAY_CACHE to a directory of yours"
fi
exec 8>"$bin/.lock"
flock 8

have_go() {
  local PATH=$PATH:/usr/local/go/bin
  command -v go >/dev/null || return 1
  local version
  version=$(go env GOVERSION 2>/dev/null) || return 1
  [[ $(printf '%s\n%s\n' "$go_needed" "${version#go}" | sort -V | head -1) == "$go_needed" ]]
}

# A later Debian's Go in a root directory, for machines whose own is missing or too old.
go_root() {
  local root=$cache/go-root mirror
  if [[ ! -d $root/usr/lib/go ]]; then
    ((EUID == 0)) || die "no Go $go_needed or newer: install one (https://go.dev/dl), or run as root to use a later Debian's"
    say "no Go $go_needed or newer here: taking a later Debian's (once, about 1 min)"
    mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' \
      | awk -v own="$(. /etc/os-release && echo "$VERSION_CODENAME")" '$1 == own && !found { print $2; found = 1 }')
    [[ $mirror ]] || die "apt names no archive for this Debian"
    rm -rf --one-file-system "$root" "$root.tmp"
    mmdebstrap --quiet --mode=root --variant=minbase --include=golang-go,ca-certificates --skip=check/qemu \
      --aptopt='Acquire::Check-Valid-Until "false"' --format=directory forky "$root.tmp" "$mirror" \
      || die "could not make a root directory with Go from $mirror"
    mv "$root.tmp" "$root"
  fi
  # It reaches the module proxy as this machine does.
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  cp "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/ssl/certs/ca-certificates.crt"
}

# build MODULE PROGRAM=PACKAGE...: builds programs of scripts/peers/MODULE into $bin, unless that was done from these
# very files.
build() {
  local module=$1 stamp=$bin/.$1.stamp sum out each done=1
  shift
  sum=$(cd "scripts/peers/$module" && sha256sum -- *)
  for each in "$@"; do [[ -x $bin/${each%%=*} ]] || done=; done
  if [[ $done && -f $stamp && $(<"$stamp") == "$sum" ]]; then return; fi
  say "building $module (once, about 30 s)"
  out=$(mktemp -d "$bin/.build.XXXXXX")
  for each in "$@"; do
    compile "$module" "${each#*=}" "$out/${each%%=*}" \
      || { rm -rf "$out"; die "building $module failed (its last lines are above)"; }
  done
  mv "$out"/* "$bin/"
  rmdir "$out"
  printf '%s\n' "$sum" > "$stamp"
}

# compile MODULE PACKAGE OUTPUT
compile() {
  local flags=(-mod=readonly -buildvcs=false)
  if have_go; then
    (cd "scripts/peers/$1" && PATH=$PATH:/usr/local/go/bin go build "${flags[@]}" -o "$3" "$2")
    return
  fi
  go_root || return
  local root=$cache/go-root
  rm -rf "$root/src" && cp -r "scripts/peers/$1" "$root/src" || return
  unshare --mount --pid --fork --mount-proc="$root/proc" chroot "$root" env HOME=/root GOPROXY="${GOPROXY:-}" \
    sh -c "cd /src && go build ${flags[*]} -o /out $2" || return
  mv "$root/out" "$3"
}

build gobgp gobgpd=github.com/osrg/gobgp/v4/cmd/gobgpd gobgp=github.com/osrg/gobgp/v4/cmd/gobgp
build etcd etcd=. etcdutl=go.etcd.io/etcd/etcdutl/v3
labs/images/build.sh causeway/frr:10.7 8>&-

root=$cache/images/causeway/frr/10.7/root
versions=${CARGO_TARGET_DIR:-target}/peers.txt
mkdir -p "$(dirname "$versions")"
{
  printf 'etcd %s\n' "$(etcd --version | awk '/etcd Version/ { print $3 }')"
  printf 'etcd %s\n' "$("$bin/etcd" --version | awk '/etcd Version/ { print $3 }')"
  printf 'GoBGP %s\n' "$(gobgpd --version | awk '{ print $3 }')"
  printf 'GoBGP %s\n' "$("$bin/gobgpd" --version | awk '{ print $3 }')"
  printf 'FRR %s\n' "$(/usr/lib/frr/bgpd --version | awk 'NR == 1 { print $3 }')"
  printf 'FRR %s\n' "$(chroot "$root" /usr/lib/frr/bgpd --version | awk 'NR == 1 { print $3 }')"
} | sort -V > "$versions"
say "peers: $(paste -sd, "$versions" | sed 's/,/, /g')"
