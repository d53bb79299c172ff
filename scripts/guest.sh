#!/usr/bin/env bash
# The kernel of the QEMU guests in which labs and tests run that need what this machine's kernel lacks (802.1Q, VLAN-aware
# bridges, VRF, ...): Debian's own, unpacked from its package into ${CAUSEWAY_CACHE:-/var/cache/causeway}/guest, never
# installed. What is there already stays. The root of a guest is this machine's, so there is nothing else to prepare.
#
#   KVER/vmlinux        the kernel, unpacked: QEMU enters it directly, which saves seconds of emulated decompression
#   KVER/initrd.gz      busybox and the modules that lead to the root
#   KVER/lib/modules    all network modules; guests load them by modprobe
#   KVER/accel          what runs guests fastest under this machine's kernel: "kvm RELEASE" or "tcg RELEASE"
#   current             link to the KVER in use
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${CAUSEWAY_CACHE:-/var/cache/causeway}/guest
# Loaded by the guest's first program, in this order, with what they depend on: the way to the root, then what nearly every
# guest needs (loading them from here is ten times faster than by modprobe).
early=(virtio_pci virtio_console 9pnet_virtio 9p overlay bridge 8021q veth dummy macvlan vrf vxlan tun nf_tables)
# What must be there for modprobe.
later=(
  br_netfilter ipvlan macvtap ifb bonding geneve
  sch_tbf sch_netem sch_ingress sch_fq cls_u32 cls_matchall cls_flower act_police act_mirred
  nft_limit nft_reject nft_reject_inet nft_reject_bridge nft_meta_bridge nft_fwd_netdev nft_ct nft_nat
  nf_conntrack_bridge
)
# Folders of the package's modules that guests have no use for, most of its size.
useless=(sound kernel/sound kernel/drivers/{gpu,media,scsi,staging,infiniband,iio,input,hid,usb,ata,mmc,mtd,md,power,thermal,platform}
  kernel/drivers/net/{ethernet,wireless,wwan,can,usb,fddi,hamradio,phy,arcnet} kernel/fs/{xfs,btrfs,ocfs2,gfs2,ceph,nfs,nfsd,smb,cifs,ksmbd})

say() { printf 'guest: %s\n' "$*"; }
die() { printf 'guest: %s\n' "$*" >&2; exit 1; }

[[ $(dpkg --print-architecture) == amd64 ]] || { say "guests are prepared on amd64 only: nothing done"; exit 0; }
for program in qemu-system-x86_64 busybox cpio modprobe depmod xz; do
  PATH=$PATH:/sbin:/usr/sbin command -v "$program" >/dev/null || die "$program is missing: run scripts/setup.sh"
done
PATH=$PATH:/sbin:/usr/sbin
if ! mkdir -p "$cache" 2>/dev/null || [[ ! -w $cache ]]; then
  die "cannot write to $cache: run as root, or set CAUSEWAY_CACHE to a directory of yours"
fi
exec 8>"$cache/.lock"
flock 8

# What an initrd is made of: this file. A kernel stays the one that is there until its folder is removed.
recipe=$(sha256sum < scripts/guest.sh | cut -c1-16)
ready() {
  [[ -s $cache/current/vmlinux && -s $cache/current/initrd.gz && $(cat "$cache/current/recipe" 2>/dev/null) == "$recipe" ]]
}

# The versioned package behind linux-image-amd64, which is only a name for the newest.
newest_package() { apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image-[0-9]/ { print $2; exit }'; }

# unpack VMLINUZ TO: the ELF file inside a compressed kernel image; fails if it is in none of the known forms.
unpack() {
  local form magic tool offset
  for form in 'xz \xFD7zXZ\x00 xz' 'zstd \x28\xB5\x2F\xFD zstd' 'gzip \x1F\x8B\x08 gzip'; do
    read -r _ magic tool <<< "$form"
    command -v "$tool" >/dev/null || continue
    for offset in $(LC_ALL=C grep -aboP "$magic" "$1" | cut -d: -f1); do
      # It ends with an error at what follows the compressed part.
      tail -c "+$((offset + 1))" "$1" | "$tool" -dc > "$2" 2>/dev/null || true
      if [[ $(head -c 4 "$2" | od -An -c | tr -d ' ') == '177ELF' ]]; then return 0; fi
    done
  done
  rm -f "$2"
  return 1
}

fetch_kernel() {
  local package dir kver path
  package=$(newest_package)
  if [[ -z $package ]]; then
    apt-get -q -q update
    package=$(newest_package)
  fi
  [[ $package ]] || die "apt knows no linux-image-amd64: is this Debian's archive complete (apt-get update)?"
  dir=$(mktemp -d "$cache/.kernel.XXXXXX")
  trap 'rm -rf "$dir"' EXIT
  say "taking the kernel from $package (70 MB, once)"
  (cd "$dir" && apt-get -q -q download "$package" 2>download.log) || { cat "$dir/download.log" >&2; die "could not download $package"; }
  dpkg -x "$dir"/*.deb "$dir/package"
  path=$(echo "$dir"/package/boot/vmlinuz-*)
  kver=${path##*/vmlinuz-}
  mkdir -p "$dir/$kver"
  unpack "$path" "$dir/$kver/vmlinux" || { say "its image has an unknown form: it is booted as it is"; mv "$path" "$dir/$kver/vmlinux"; }
  # Debian 12 has /lib/modules in the package, later ones /usr/lib/modules.
  if [[ -d $dir/package/usr/lib/modules ]]; then mv "$dir/package/usr/lib" "$dir/$kver/lib"; else mv "$dir/package/lib" "$dir/$kver/lib"; fi
  for path in "${useless[@]}"; do rm -rf "$dir/$kver/lib/modules/$kver/$path"; done
  depmod -b "$dir/$kver" "$kver" 2>/dev/null
  dpkg-deb -W --showformat '${Package} ${Version}\n' "$dir"/*.deb > "$dir/$kver/package.txt"
  rm -rf "${cache:?}/$kver"
  mv "$dir/$kver" "$cache/$kver"
  rm -rf "$dir"
  trap - EXIT
  ln -sfn "$kver" "$cache/current"
}

# The first program of a guest. Its words on the console are shown when a guest dies.
init_script() {
  cat <<'INIT'
#!/bin/sh
die() { echo "causeway: $*"; sync; reboot -f; }
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for word in $(cat /proc/cmdline); do
  case $word in
    causeway.stage=*) stage=${word#*=} ;;
    causeway.probe) echo causeway-probe-ok; reboot -f ;;
  esac
done
while read -r module; do
  # Made on request only, as on a machine where nobody has configured one.
  case $module in dummy.ko) parameter=numdummies=0 ;; *) parameter= ;; esac
  insmod "/lib/$module" $parameter || echo "causeway: module $module does not load"
done < /modules
options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$options,cache=loose,ro" root /lower || die "cannot mount the machine's root"
mount -t tmpfs -o size=80% tmpfs /upper || die "cannot mount a tmpfs"
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root || die "cannot lay a tmpfs over the machine's root"
cp "/lower$stage" /stage || die "there is no $stage on the machine"
for each in proc sys dev; do mount --move /$each /root/$each; done
cd /root
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock run/netns dev/pts dev/shm lib/modules
cp /stage run/stage
mount -t devpts devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t cgroup2 cgroup2 sys/fs/cgroup
# Things that a device manager would make.
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
hostname guest
ifconfig lo up
exec switch_root /root /bin/busybox sh /run/stage
INIT
}

build_initrd() {
  local kver dir module file
  kver=$(readlink "$cache/current")
  dir=$(mktemp -d "$cache/.initrd.XXXXXX")
  trap 'rm -rf "$dir"' EXIT
  mkdir -p "$dir"/{bin,lib,proc,sys,dev,lower,upper,root}
  cp "$(command -v busybox)" "$dir/bin/busybox"
  ldd "$dir/bin/busybox" >/dev/null 2>&1 && die "busybox is not the static one: apt-get install busybox-static"
  for file in sh mount mkdir insmod switch_root cat cp ln echo sync reboot hostname ifconfig; do ln -s busybox "$dir/bin/$file"; done
  : > "$dir/modules"
  for module in "${early[@]}"; do
    modprobe -d "$cache/current" -S "$kver" --show-depends "$module" > "$dir/depends" 2>&1 || die "the kernel has no module $module: $(cat "$dir/depends")"
    while read -r _ file; do
      module=${file##*/}
      module=${module%.xz}
      module=${module%.zst}
      if grep -qxF "$module" "$dir/modules"; then continue; fi
      case $file in
        *.xz) xz -dc "$file" > "$dir/lib/$module" ;;
        *.zst) zstd -qdc "$file" > "$dir/lib/$module" ;;
        *) cp "$file" "$dir/lib/" ;;
      esac
      echo "$module" >> "$dir/modules"
    done < <(awk '/^insmod/ { print "insmod", $2 }' "$dir/depends")
  done
  rm "$dir/depends"
  for module in "${later[@]}"; do
    modprobe -d "$cache/current" -S "$kver" --show-depends "$module" >/dev/null 2>&1 || say "note: the kernel has no module $module"
  done
  init_script > "$dir/init"
  chmod 755 "$dir/init"
  (cd "$dir" && find . | LC_ALL=C sort | cpio --quiet -o -H newc | gzip -1) > "$cache/current/.initrd.new"
  mv "$cache/current/.initrd.new" "$cache/current/initrd.gz"
  rm -rf "$dir"
  trap - EXIT
}

# KVM is there on some machines where guests hang in it: it counts only if a guest has spoken under it.
probe_accel() {
  local now found=tcg console
  now=$(uname -r)
  if [[ $(cat "$cache/current/accel" 2>/dev/null) == *" $now" ]]; then return; fi
  if [[ -w /dev/kvm ]]; then
    console=$(timeout --kill-after=1 10 qemu-system-x86_64 -machine pc -accel kvm -cpu host -m 256 -nodefaults -no-user-config \
      -display none -no-reboot -nic none -serial stdio -kernel "$cache/current/vmlinux" -initrd "$cache/current/initrd.gz" \
      -append 'console=ttyS0 quiet panic=-1 causeway.probe' 2>/dev/null </dev/null || true)
    if [[ $console == *causeway-probe-ok* ]]; then found=kvm; else say "KVM does not run a guest here: guests are emulated"; fi
  fi
  printf '%s %s\n' "$found" "$now" > "$cache/current/accel"
}

if ! ready; then
  if [[ ! -s $cache/current/vmlinux ]]; then fetch_kernel; fi
  build_initrd
  printf '%s\n' "$recipe" > "$cache/current/recipe"
  say "kernel $(readlink "$cache/current") is ready in $cache/current"
fi
probe_accel
