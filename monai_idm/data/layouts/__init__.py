"""Folder layouts of data sets, one module for each, and the case that they all describe."""
