#!/bin/bash
# Builds the images of labs/images/ as root directories for `causeway lab`, and on request as container images.
#
#   build.sh [--docker] [--list] [IMAGE…]     IMAGE: name:tag as in image.yaml, or its folder's name; default: all
#
# A root directory is built once per (suite, packages) with mmdebstrap, from the Debian archive that apt on this
# machine uses, into $CAUSEWAY_CACHE/images/NAME/TAG/root (default cache: /var/cache/causeway). It appears there
# complete or not at all; a second run, or two at the same time, build it once. Files and our own binaries are layers
# on top: the lab runner adds them when a node starts, --docker copies them in.
# Fields of image.yaml stand on one line each; README.md explains them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CAUSEWAY_CACHE:-/var/cache/causeway}/images
# Where our binaries are, for --docker only.
bin_dir=${CAUSEWAY_BIN_DIR:-${CARGO_TARGET_DIR:-$here/../../target}/debug}
docker=0
list=0
wanted=()

die() { echo "build.sh: $*" >&2; exit 1; }
say() { echo "image $*"; }

for arg in "$@"; do
    case $arg in
        --docker) docker=1 ;;
        --list) list=1 ;;
        -h|--help) sed -n '2,11p' "${BASH_SOURCE[0]}" | cut -c3-; exit 0 ;;
        -*) die "unknown option $arg (see --help)" ;;
        *) wanted+=("$arg") ;;
    esac
done

# field FILE KEY: the value of a one-line field, without quotes; empty when it is absent.
field() {
    sed -n "s/^$2:[[:space:]]*//p" "$1" | head -n 1 | sed -E 's/[[:space:]]+#.*$//; s/[[:space:]]*$//; s/^"(.*)"$/\1/'
}

# items FILE KEY: the items of a one-line list, one a line, without quotes.
items() {
    field "$1" "$2" | sed -E 's/^\[(.*)\]$/\1/' | tr ',' '\n' | sed -E 's/^[[:space:]]+//; s/[[:space:]]+$//; s/^"(.*)"$/\1/' | grep -v '^$' || true
}

# pairs FILE KEY: the entries of a one-line map as KEY=VALUE, one a line.
pairs() {
    field "$1" "$2" | sed -E 's/^\{(.*)\}$/\1/' | tr ',' '\n' | sed -E 's/^[[:space:]]+//; s/[[:space:]]+$//; s/:[[:space:]]*/=/; s/="(.*)"$/=\1/' | grep -v '^$' || true
}

json_list() {
    local out='' item
    while IFS= read -r item; do out+="${out:+, }\"$item\""; done
    echo "[$out]"
}

host_suite() { . /etc/os-release && echo "${VERSION_CODENAME:?}"; }

suite_of() {
    local suite
    suite=$(field "$1" suite)
    if [ "$suite" = host ]; then host_suite; else echo "$suite"; fi
}

# What a root is made of: the same text means the same root. The lab runner compares it too (labs/src/image.rs).
definition() {
    echo "suite=$(suite_of "$1")"
    echo "packages=$(items "$1" packages | LC_ALL=C sort | tr '\n' ' ' | sed 's/ $//')"
}

# The archive apt uses for this machine's own suite; later suites are in the same one. Without downloaded lists apt
# names it only with --no-release-info.
mirror() {
    local own option uri
    own=$(host_suite)
    for option in --release-info --no-release-info; do
        uri=$(apt-get indextargets "$option" --format '$(CODENAME) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
            awk -v own="$own" '$1 == own || $2 == own { print $3; exit }')
        if [ -n "$uri" ]; then echo "$uri"; return; fi
    done
}

spec_of() {
    local spec
    for spec in "$here"/*/image.yaml; do
        if [ "$(field "$spec" name):$(field "$spec" tag)" = "$1" ] || [ "$(basename "$(dirname "$spec")")" = "$1" ]; then
            echo "$spec"
            return
        fi
    done
    die "no image '$1' in $here (there are: $(all_names | tr '\n' ' '))"
}

all_names() {
    local spec
    for spec in "$here"/*/image.yaml; do echo "$(field "$spec" name):$(field "$spec" tag)"; done
}

root_is_current() { # DIR SPEC
    [ -d "$1/root/usr" ] && [ "$(cat "$1/definition" 2>/dev/null)" = "$(definition "$2")" ]
}

build_root() { # SPEC
    local spec=$1 name tag dir suite packages made_of uri start proxies=()
    name=$(field "$spec" name) tag=$(field "$spec" tag)
    dir=$cache/$name/$tag
    mkdir -p "$(dirname "$dir")"
    exec 9>"$(dirname "$dir")/.$tag.lock"
    flock 9
    if root_is_current "$dir" "$spec"; then
        say "$name:$tag: present"
        exec 9>&-
        return
    fi
    [ "$(id -u)" = 0 ] || die "building a root directory needs root: run it with sudo"
    command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: apt-get install mmdebstrap"
    suite=$(suite_of "$spec")
    packages=$(items "$spec" packages | paste -sd,)
    made_of=$(definition "$spec")
    uri=$(mirror)
    [ -n "$uri" ] || die "apt on this machine names no archive for $(host_suite) (apt-get indextargets)"
    while IFS= read -r line; do
        [ -n "$line" ] && proxies+=("--aptopt=$line")
    done < <(apt-config dump | grep -iE '^Acquire::(http|https)::.*"[^"]+";$' || true)

    # What a killed build left; nobody else builds while we hold the lock.
    rm -rf --one-file-system "$(dirname "$dir")"/."$tag".tmp.*
    say "$name:$tag: building (Debian $suite), about 20 s"
    start=$SECONDS
    tmp=$(mktemp -d "$(dirname "$dir")/.$tag.tmp.XXXXXX")
    # mktemp makes it 0700, and what is below must be reachable for the image's own users.
    chmod 0755 "$tmp"
    trap 'rm -rf --one-file-system "$tmp"' EXIT
    # Testing suites often have an expired Release file; the signature is still checked.
    if ! mmdebstrap --mode=root --variant=minbase --format=directory --skip=check/qemu \
        --aptopt='Acquire::Check-Valid-Until "false"' "${proxies[@]}" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --include="$packages" \
        "$suite" "$tmp/root" "$uri" >"$tmp/build.log" 2>&1 </dev/null; then
        tail -n 20 "$tmp/build.log" >&2
        die "image $name:$tag: mmdebstrap of suite $suite failed (its last lines are above)"
    fi
    dpkg-query --admindir="$tmp/root/var/lib/dpkg" -W -f '${Package} ${Version}\n' >"$tmp/packages.txt"
    echo "$made_of" >"$tmp/definition"
    if [ -e "$dir" ]; then
        # A lab that runs may still have the old root below its nodes.
        mv "$dir" "$(dirname "$dir")/.$tag.old.$$"
        if [ -z "$(ls /run/causeway/labs 2>/dev/null)" ]; then rm -rf --one-file-system "$(dirname "$dir")"/."$tag".old.*; fi
    fi
    mv "$tmp" "$dir"
    trap - EXIT
    say "$name:$tag: built in $((SECONDS - start)) s, $(du -sm "$dir/root" | cut -f1) MB"
    exec 9>&-
}

# The image that has the root: the image itself, or what it is made from.
root_spec() {
    local from
    from=$(field "$1" from)
    if [ -n "$from" ]; then spec_of "$from"; else echo "$1"; fi
}

to_docker() { # SPEC
    local spec=$1 name tag base tar part binary pair file changes=() own=()
    name=$(field "$spec" name) tag=$(field "$spec" tag)
    base=$(root_spec "$spec")
    command -v docker >/dev/null || die "docker is missing"
    tar=$(mktemp "$cache/.docker.XXXXXX")
    # Expanded now: the trap may run when this function is gone.
    trap "rm -f '$tar'" EXIT
    # Docker refuses an archive that names a path twice: files of ours take the place of the root's, directories are its.
    for part in $(items "$spec" files); do
        while IFS= read -r file; do own+=("--exclude=$file"); done < <(cd "$here/files/$part" && find . ! -type d)
    done
    tar -C "$cache/$(field "$base" name)/$(field "$base" tag)/root" --numeric-owner --one-file-system \
        --anchored --no-wildcards "${own[@]}" -cf "$tar" .
    for part in $(items "$spec" files); do
        (cd "$here/files/$part" && find . ! -type d -print0) \
            | tar -C "$here/files/$part" --owner=0 --group=0 --mode='go-w' --null -T - -rf "$tar"
    done
    for binary in $(items "$spec" binaries); do
        [ -x "$bin_dir/$binary" ] || die "image $name:$tag: $bin_dir/$binary is missing: cargo build, or set CAUSEWAY_BIN_DIR"
        tar -C "$bin_dir" --owner=0 --group=0 --transform='s,^,usr/local/bin/,' -rf "$tar" "$binary"
    done
    while IFS= read -r pair; do [ -n "$pair" ] && changes+=(-c "ENV $pair"); done < <(pairs "$spec" env)
    [ -z "$(items "$spec" entrypoint)" ] || changes+=(-c "ENTRYPOINT $(items "$spec" entrypoint | json_list)")
    [ -z "$(items "$spec" cmd)" ] || changes+=(-c "CMD $(items "$spec" cmd | json_list)")
    docker import "${changes[@]}" "$tar" "$name:$tag" >/dev/null
    rm -f "$tar"
    trap - EXIT
    say "$name:$tag: imported into docker"
}

if [ "$list" = 1 ]; then all_names; exit 0; fi
[ ${#wanted[@]} -gt 0 ] || mapfile -t wanted < <(all_names)
for image in "${wanted[@]}"; do
    spec=$(spec_of "$image")
    build_root "$(root_spec "$spec")"
    if [ "$docker" = 1 ]; then to_docker "$spec"; fi
done
