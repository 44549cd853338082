"""Fusers compose one answer from candidates or from hidden states."""
