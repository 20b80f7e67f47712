#!/bin/sh
# Starts the edge process of this site. Further words go to `tidegate edge run`, such as --check.
# KAFKA=host:port names another broker; TIDEGATE names the command where it is not on the PATH.
set -eu
cd "$(dirname "$0")"
exec ${TIDEGATE:-tidegate} edge run edge.toml "$@"
