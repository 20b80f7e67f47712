#!/bin/sh
# Starts the pipeline of this site: topics, the model, then the job. Further words go to Beam and the pipeline, such as
# --runner=FlinkRunner; `tidegate pipeline run --help` lists them.
# KAFKA=host:port names another broker; TIDEGATE names the command where it is not on the PATH.
set -eu
cd "$(dirname "$0")"
KAFKA="${KAFKA:-@KAFKA@}"
PREFIX=@PREFIX@
TIDEGATE="${TIDEGATE:-tidegate}"

# Topics as topics.toml lists them; what is there already and right is left alone.
$TIDEGATE topics apply --bootstrap-servers "$KAFKA" --prefix "$PREFIX" >&2 ||
    echo "some topics are not as the catalogue says; the pipeline is started all the same" >&2

# The heavy model judges what the edges escalate. A newer version that was published since is left in force.
for model in models/*/; do
    $TIDEGATE pipeline publish --keep-newer "$model" --kafka_bootstrap_servers="$KAFKA" --kafka_topic_prefix="$PREFIX" >&2
done

exec $TIDEGATE pipeline run \
    --kafka_bootstrap_servers="$KAFKA" \
    --kafka_topic_prefix="$PREFIX" \
    --kafka_group_id=@GROUP@ \
    --fleet_window=5s \
    --allowed_lateness=60s \
    --disorder=2s \
    "$@"
