"""postgrad: turn a general language model into a domain expert.

The parts are folders named by their role (see AGENTS.md); a recipe is one file or package under `recipes/` that wires them.
Importing this package imports no torch.
"""

__version__ = "0.1.0"
