"""The parameters of the notebooks. No package is imported: values are checked before packages are installed.

check    what a parameter is; the check of its value
devices  the parameters that choose devices: all of 01, and a part of 04
table    every parameter: name, type, default, range, meaning
"""
