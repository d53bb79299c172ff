#!/bin/bash
# Builds the images of labs/images/ as root directories for `causeway lab`, and on request as container images.
#
#   build.sh [--docker] [--list] [IMAGE…]     IMAGE: name:tag as in image.yaml, or its folder's name; default: all
#
# A root directory is built once per (suite, packages) with mmdebstrap, from the Debian archive that apt on this
# machine uses, into $CAUSEWAY_CACHE/images/NAME/TAG/root (default cache: /var/cache/causeway). It appears there
# complete or not at all; a second run, or two at the same time, build it once. Files and our own binaries are layers
# on top: the lab runner adds them when a node starts, --docker puts them on an image NAME-root:TAG of the root.
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

# The container image of a root, which all images on it share: imported once, again when the root was built again.
docker_root() { # SPEC
    local spec=$1 dir made_of
    dir=$cache/$(field "$spec" name)/$(field "$spec" tag)
    root_image=$(field "$spec" name)-root:$(field "$spec" tag)
    made_of=$(cat "$dir/definition" "$dir/packages.txt" | sha256sum | cut -c1-32)
    [ "$(docker image inspect --format '{{index .Config.Labels "causeway.root"}}' "$root_image" 2>/dev/null)" != "$made_of" ] || return 0
    tar -C "$dir/root" --numeric-owner --one-file-system -c . \
        | docker import -c "LABEL causeway.root=$made_of" -c 'CMD ["bash"]' - "$root_image" >/dev/null
    say "$root_image: imported into docker"
}

# What stands on the root: files, the last upmost, and our own programs without what only a debugger reads.
layer() { # SPEC DIR
    local part binary
    for part in $(items "$1" files); do cp -a "$here/files/$part/." "$2"; done
    for binary in $(items "$1" binaries); do
        [ -x "$bin_dir/$binary" ] || die "image $name:$tag: $bin_dir/$binary is missing: cargo build, or set CAUSEWAY_BIN_DIR"
        mkdir -p "$2/usr/local/bin"
        strip --strip-debug -o "$2/usr/local/bin/$binary" "$bin_dir/$binary" 2>/dev/null \
            || cp "$bin_dir/$binary" "$2/usr/local/bin/$binary"
    done
}

# By commit and not by "docker build", which may want a component of its own, or ask a registry about the root.
to_docker() { # SPEC
    local spec=$1 name tag pair changes=() root_image
    name=$(field "$spec" name) tag=$(field "$spec" tag)
    command -v docker >/dev/null || die "docker is missing"
    docker_root "$(root_spec "$spec")"
    # What killed builds left.
    find "$cache" -maxdepth 1 -name '.docker.*' -mmin +60 -exec rm -rf --one-file-system {} +
    tmp=$(mktemp -d "$cache/.docker.XXXXXX")
    container=
    trap 'rm -rf "$tmp"; [ -z "$container" ] || docker rm "$container" >/dev/null' EXIT
    layer "$spec" "$tmp"
    while IFS= read -r pair; do [ -n "$pair" ] && changes+=(-c "ENV $pair"); done < <(pairs "$spec" env)
    [ -z "$(items "$spec" entrypoint)" ] || changes+=(-c "ENTRYPOINT $(items "$spec" entrypoint | json_list)")
    [ -z "$(items "$spec" cmd)" ] || changes+=(-c "CMD $(items "$spec" cmd | json_list)")
    container=$(docker create --network none "$root_image")
    # Directories that are there stay as they are: some belong to a daemon's own user.
    (cd "$tmp" && find . ! -type d -print0) \
        | tar -C "$tmp" --owner=0 --group=0 --mode='go-w' --null -T - -c | docker cp - "$container:/"
    docker commit "${changes[@]}" "$container" "$name:$tag" >/dev/null
    docker rm "$container" >/dev/null
    rm -rf "$tmp"
    trap - EXIT
    say "$name:$tag: in docker"
}

if [ "$list" = 1 ]; then all_names; exit 0; fi
[ ${#wanted[@]} -gt 0 ] || mapfile -t wanted < <(all_names)
for image in "${wanted[@]}"; do
    spec=$(spec_of "$image")
    build_root "$(root_spec "$spec")"
    if [ "$docker" = 1 ]; then to_docker "$spec"; fi
done
