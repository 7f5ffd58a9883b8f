"""The lint rules: one file each, named after its code.  `find` is a pure function, its docstring is its help page."""
