"""Published systems as compositions of parts: one file each, read top to bottom."""
