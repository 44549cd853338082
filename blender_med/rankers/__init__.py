"""Rankers order the candidates of a question."""
