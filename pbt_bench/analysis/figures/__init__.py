"""Figures, one file each, and the modules that draw them."""
