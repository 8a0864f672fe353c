"""The ways in which data sets lie on a disk, one file for each, and what a case is in all of them."""
