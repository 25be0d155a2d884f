"""Published systems as compositions of parts: one file each, or a package whose docstring gives the order of reading."""
