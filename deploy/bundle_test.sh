#!/usr/bin/env bash
# The bundle runs from wherever it lies, and below a root that holds nothing but it and the C library.
set -euo pipefail
fail() { printf 'bundle_test: %s\n' "$*" >&2; exit 1; }

made=$TEST_TMPDIR/made moved=$TEST_TMPDIR/elsewhere/outrider-bundle
deploy/bundle.sh "$made" --binary "$(readlink -f outrider)"
mkdir -p "$TEST_TMPDIR/elsewhere"
mv "$made" "$moved"
model=$(readlink -f deploy/models/smollm2-135m-draft-16m-q8_0.gguf)
env -i "$moved/bin/outrider" --version | grep -q outrider || fail "the moved bundle does not run"
env -i "$moved/bin/outrider" inspect "$model" | grep -q GGUF || fail "the moved bundle can not inspect a model"

for page in outrider outrider-serve outrider-bench-serve; do
  grep -q '^\.TH' "$moved/share/man/man1/$page.1" || fail "the bundle has no man page of $page"
done
bash -n "$moved/share/completions/outrider.bash" || fail "the completion script is none"

# A library that is gone is missed: none is taken from the system behind the test's back.
mv "$moved/lib/libyaml-cpp.so"* "$TEST_TMPDIR/"
if env -i ldd "$moved/bin/outrider" | grep libyaml-cpp | grep -qF "$moved"; then fail "the library is still there"; fi
mv "$TEST_TMPDIR"/libyaml-cpp.so* "$moved/lib/"

# A root with the bundle, the model, and of the system the C library alone.
root=$TEST_TMPDIR/root
mkdir -p "$root/opt" "$root/tmp"
cp -r "$moved" "$root/opt/outrider"
cp "$model" "$root/opt/model.gguf"
ldd "$moved/bin/outrider" | grep -oE '/[^ ]+' | grep -vF "$moved" | while read -r path; do
  mkdir -p "$root$(dirname "$path")"
  cp -L "$path" "$root$path"
done
find "$root" -name '*.so*' -not -path '*/opt/*' | grep -vE '/(libc|libm|libmvec|libdl|librt|libpthread|libresolv|ld-linux[^/]*)\.so' &&
  fail "more than the C library is outside the bundle"
chroot=$(PATH=$PATH:/usr/sbin:/sbin command -v chroot || true)
# The loader asks /proc where a program lies; below that root there is none.
inside() { env -i LD_ORIGIN_PATH=/opt/outrider/bin "$chroot" "$root" /opt/outrider/bin/outrider "$@"; }
if [ "$(id -u)" = 0 ] && [ -n "$chroot" ] && "$chroot" / /bin/true 2>/dev/null; then
  inside --version | grep -q outrider || fail "the bundle does not run below a bare root"
  inside inspect /opt/model.gguf | grep -q GGUF || fail "below a bare root it can not inspect a model"
  echo "ran below a bare root"
else
  echo "no right to change the root here: the check of links stands alone"
fi

# What can not be packed is said.
if deploy/bundle.sh "$TEST_TMPDIR/none" --binary /nowhere 2> "$TEST_TMPDIR/error"; then fail "packed nothing"; fi
grep -q '/nowhere is no program' "$TEST_TMPDIR/error" || fail "$(cat "$TEST_TMPDIR/error")"
