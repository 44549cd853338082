"""Artefacts on disk: atomic Parquet shards, manifests, the generation cache."""
