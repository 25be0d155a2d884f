"""The rules: `timing`, `memory`, `semantics` and `evasion` read Python's syntax tree, `cpp` reads C++ and CUDA tokens.

Each is a function that yields the lines and words that give a hack away. Those of tier "reject" are written so that the
honest neighbour passes: a workspace that is not returned, a graph with a copy-in, streams that are joined, getattr with a
constant name, an except that raises. The tests hold each beside it.
"""
