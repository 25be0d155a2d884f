"""One file for each row of the catalogue: what cheats, and what honestly looks like it."""
