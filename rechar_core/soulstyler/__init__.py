"""Soulstyler: restyle one named object of a picture (arXiv 2311.13562). Nothing heavy is imported by the package."""
