#!/usr/bin/env bash
# Writes the files of a release that need no compiler: manifests with the release's image, the chart with the same image as its
# default, and the notes out of CHANGELOG.md. `make release-files` calls it, and so do .github/workflows/release.yml and
# tests/chart/release.rs.
#
#   files.sh PROGRAM HELM VERSION IMAGE DIRECTORY
#
# PROGRAM is the linkerd-gate of this version, IMAGE the repository of its image without a tag.
set -euo pipefail

[ $# -eq 5 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 64; }
program=$1 helm=$2 version=$3 image=$4 directory=$5
root=$(cd "$(dirname "$0")/../.." && pwd)

fail() { echo "release: $*" >&2; exit 1; }

says=$("$program" --version 2>/dev/null) || fail "$program does not run on this machine"
says=${says#linkerd-gate }
[ "$says" = "$version" ] || fail "$program is version $says, and this release is $version"
case ${image##*/} in *[:@]*) fail "$image has a tag or a digest: give the repository alone" ;; esac

# From the heading of this version to the next heading.
notes=$(awk -v heading="## $version" '$0 == heading || index($0, heading " ") == 1 { found = 1; next } /^## / { found = 0 } found' "$root/CHANGELOG.md")
[ -n "${notes//[[:space:]]/}" ] || fail "CHANGELOG.md has no section '## $version', or an empty one: rename '## Unreleased'"

mkdir -p "$directory"
install() { "$program" install --image "$image:$version" "$@"; }
install --kubernetes-version 1.36 > "$directory/install.yaml"
install --kubernetes-version 1.36 --mode audit > "$directory/install-audit.yaml"
install --kubernetes-version 1.33 > "$directory/install-pre-1.36.yaml"

# A copy of the chart whose image has a default: this release's.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$root/deploy/chart" "$work/linkerd-gate"
sed -i.before 's|^  repository: ""$|  repository: '"$image"'|' "$work/linkerd-gate/values.yaml"
cmp -s "$work/linkerd-gate/values.yaml" "$work/linkerd-gate/values.yaml.before" && fail "values.yaml has no line '  repository: \"\"'"
rm "$work/linkerd-gate/values.yaml.before"
"$helm" package "$work/linkerd-gate" --destination "$directory" > /dev/null

{
  printf '%s\n\n' "$notes"
  printf 'Image: `%s:%s` (linux/amd64, linux/arm64).\n' "$image" "$version"
  printf 'Chart: `helm install linkerd-gate oci://%s --version %s --namespace linkerd-gate --create-namespace`\n' "${image%/*}/charts/linkerd-gate" "$version"
  printf 'Without Helm: `kubectl apply -f install.yaml` (Kubernetes 1.36 and newer), `install-pre-1.36.yaml` (1.33 to 1.35), `install-audit.yaml` (reports only).\n'
} > "$directory/notes.md"
