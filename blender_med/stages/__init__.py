"""Stages of a pipeline and the runner that decides which of them have to run."""
