"""What this project's notebooks share beside their mathematics; the one room that knows library and workflow."""

import lazy_loader

# What there is, and where, is said in __init__.pyi; a module is imported when something of it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
