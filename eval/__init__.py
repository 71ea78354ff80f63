"""Measuring: text, losses, barriers, spectra, samples, and the report that shows them."""
