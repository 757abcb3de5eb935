"""Benchmarks: rows and their rewards under each recipe, made into a Report."""
