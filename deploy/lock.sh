#!/bin/sh
# Resolve pyproject.toml into requirements/*.txt: exact versions with hashes for every platform, no index address in them.
# dev.txt holds everything; edge.txt and cloud.txt are cut from it, so a package has one version in all three.
set -eu
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo 'uv is needed to make the lock files and was not found; install it with `pip install uv`; everything else works without it' >&2; exit 69; }
lock() { # lock OUT ARGS...
	out=$1; shift
	uv pip compile --quiet --universal --python-version 3.11 --no-build --generate-hashes \
		--custom-compile-command 'make lock' --output-file "requirements/$out" "$@" pyproject.toml >/dev/null
}
lock dev.txt --all-extras --group dev ${UPGRADE:+--upgrade}
lock edge.txt --extra edge --constraint requirements/dev.txt ${UPGRADE:+--upgrade}
lock cloud.txt --extra cloud --constraint requirements/dev.txt ${UPGRADE:+--upgrade}
