"""Rankers against human grades: how well their order agrees with that of people."""
