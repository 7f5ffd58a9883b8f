"""The rules, a file each; the docstring of `find` is the help page."""
