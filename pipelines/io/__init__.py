"""Where the pipelines touch the world: the Kafka source, sink and commit ledger, files, models."""
