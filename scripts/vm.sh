#!/usr/bin/env bash
# What the VMs of labs boot with: the kernel of the guests (scripts/guest.sh) and an initrd of busybox, the driver of a
# virtio network card and the script below, 1.5 MB. Nothing else is on such a VM, so it is up in seconds, also emulated.
#
#   ${CAUSEWAY_CACHE:-/var/cache/causeway}/guest/current/vmlinux, vm.gz
#
# Words of the kernel's command line that the VM understands:
#
#   causeway.address=10.100.0.5/24   what its card eth0 has
#   causeway.mtu=1450
#   causeway.gateway=10.100.0.1      its default route; may be missing
#
# It answers pings, gives the MD5 sum of what it gets on TCP port 5001, as hex, and says nothing of its own accord: without IPv6
# (ipv6.disable=1) nobody hears of it before it is asked. `causeway: the VM is up` on the console says that it is.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${CAUSEWAY_CACHE:-/var/cache/causeway}/guest
modules=(virtio_pci virtio_net)

die() { printf 'vm: %s\n' "$*" >&2; exit 1; }

PATH=$PATH:/sbin:/usr/sbin
[[ -s $cache/current/vmlinux ]] || die "there is no kernel in $cache: run scripts/guest.sh"
kver=$(readlink "$cache/current")
to=$cache/current
recipe="$kver $(sha256sum < scripts/vm.sh | cut -c1-16)"
if [[ -s $to/vm.gz && $(cat "$to/vm.recipe" 2>/dev/null) == "$recipe" ]]; then exit 0; fi
[[ -w $to ]] || die "cannot write to $to: run as root, or set CAUSEWAY_CACHE to a directory of yours"
exec 8>"$cache/.lock"
flock 8

init_script() {
  cat <<'INIT'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/lib/$module"; done < /modules
for word in $(cat /proc/cmdline); do
  case $word in
    causeway.address=*) address=${word#*=} ;;
    causeway.gateway=*) gateway=${word#*=} ;;
    causeway.mtu=*) mtu=${word#*=} ;;
  esac
done
ip link set lo up
ip link set eth0 mtu "${mtu:-1450}"
ip link set eth0 up
ip address add "$address" dev eth0
[ -z "$gateway" ] || ip route add default via "$gateway"
nc -ll -p 5001 -e md5sum &
echo 'causeway: the VM is up' > /dev/console
# The first process must not end.
while :; do sleep 86400; done
INIT
}

dir=$(mktemp -d "$cache/.vm.XXXXXX")
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir"/{bin,lib,proc,sys,dev}
ldd "$(command -v busybox)" >/dev/null 2>&1 && die "busybox is not the static one: apt-get install busybox-static"
cp "$(command -v busybox)" "$dir/bin/busybox"
for file in sh mount insmod cat ip nc md5sum echo sleep; do ln -s busybox "$dir/bin/$file"; done
: > "$dir/modules"
for module in "${modules[@]}"; do
  while read -r _ file; do
    name=${file##*/}
    name=${name%.xz}
    name=${name%.zst}
    if grep -qxF "$name" "$dir/modules"; then continue; fi
    case $file in
      *.xz) xz -dc "$file" > "$dir/lib/$name" ;;
      *.zst) zstd -qdc "$file" > "$dir/lib/$name" ;;
      *) cp "$file" "$dir/lib/" ;;
    esac
    echo "$name" >> "$dir/modules"
  done < <(modprobe -d "$to" -S "$kver" --show-depends "$module" | awk '/^insmod/ { print "insmod", $2 }')
done
init_script > "$dir/init"
chmod 755 "$dir/init"
(cd "$dir" && find . | LC_ALL=C sort | cpio --quiet -o -H newc | gzip -1) > "$to/.vm.new"
mv "$to/.vm.new" "$to/vm.gz"
printf '%s\n' "$recipe" > "$to/vm.recipe"
printf 'vm: %s is ready\n' "$to/vm.gz"
