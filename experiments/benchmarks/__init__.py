"""Measurements and estimates of speed, memory and communication."""
