#!/usr/bin/env bash
# Makes a folder that runs anywhere: outrider and the libraries it needs, found beside it. Copy it to a host of the same
# or a newer distribution, with or without build tools, and run FOLDER/bin/outrider.
#
#   deploy/bundle.sh FOLDER                 builds outrider and packs it
#   deploy/bundle.sh FOLDER --config=cuda   the same with what else bazel is to be told
#   deploy/bundle.sh FOLDER --binary FILE   packs a program that was built before
#
# FOLDER/share has the man pages and the completion scripts of that very program.
# Not packed: the C library and its loader, whose newer versions serve older programs; CUDA's driver and libraries,
# which belong to the host (CUDA's runtime is linked in). FOLDER may be there; what it holds in bin, lib,
# share/man and share/completions is replaced.
# BAZEL names another bazel.
set -euo pipefail

die() { printf 'bundle: %s\n' "$*" >&2; exit 1; }

[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || die "usage: deploy/bundle.sh FOLDER [--binary FILE | FLAGS OF BAZEL]"
folder=$1
shift
if [ "${1:-}" = --binary ]; then
  [ $# = 2 ] || die "--binary wants one file"
  binary=$2
  [ -x "$binary" ] || die "$binary is no program"
else
  cd "$(dirname "$0")/.."
  "${BAZEL:-bazel}" build -c opt "$@" //:outrider
  binary=$("${BAZEL:-bazel}" info -c opt "$@" bazel-bin 2>/dev/null | tail -n 1)/outrider
fi

# Of glibc, and of the GPU's host.
of_the_host='^(linux-vdso|ld-linux[^/]*|libc|libm|libmvec|libdl|librt|libpthread|libresolv|libutil|libanl|libnss_[a-z]+'
of_the_host+='|libBrokenLocale|libthread_db|libcuda|libcudart|libcublas|libcublasLt|libnccl|libnvidia-[a-z-]+)\.so'

# Links that the loader follows: "NAME => PATH (ADDRESS)", "NAME => not found".
links=$(ldd "$binary") || die "$binary is no dynamic program"
missing=$(awk '$2 == "=>" && $3 == "not" {print $1}' <<< "$links" | grep -vE "$of_the_host" || true)
[ -z "$missing" ] || die "libraries of $binary are not found: $(tr '\n' ' ' <<< "$missing")"

rm -rf "$folder/bin" "$folder/lib"
mkdir -p "$folder/bin" "$folder/lib"
install -m 755 "$binary" "$folder/bin/outrider"
awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}' <<< "$links" | while read -r name path; do
  if grep -qE "$of_the_host" <<< "$name"; then continue; fi
  install -m 644 "$(readlink -f "$path")" "$folder/lib/$name"
done

# MANPATH=FOLDER/share/man man outrider
rm -rf "$folder/share/man" "$folder/share/completions"
if "$folder/bin/outrider" --version > /dev/null 2>&1; then
  "$folder/bin/outrider" man --output-dir "$folder/share/man/man1"
  mkdir -p "$folder/share/completions"
  for shell in bash zsh fish; do
    "$folder/bin/outrider" completion "$shell" > "$folder/share/completions/outrider.$shell"
  done
else
  printf 'bundle: no man pages: the program does not run on this host\n' >&2
fi

# It finds all of them without being told, wherever the folder is.
outside=$(env -i ldd "$folder/bin/outrider" | awk '$2 == "=>" {print $1, $3}' | grep -vE "$of_the_host" |
  grep -vF " $(readlink -f "$folder")/" || true)
[ -z "$outside" ] || die "$folder/bin/outrider takes libraries from outside: $(tr '\n' ';' <<< "$outside")"
printf '%s: %s libraries, %s\n' "$folder" "$(find "$folder/lib" -type f | wc -l)" "$(du -sh "$folder" | cut -f1)"
