"""Fusing in a run: the order of the candidates, experts as fusers, the guard."""
