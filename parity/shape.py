"""The shape of the images that a network takes."""

Shape = tuple[int, int, int]
"""Channels, height, width of one image."""
