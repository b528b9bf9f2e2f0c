"""The version of the package, in a module that any other module may import."""

__version__ = "0.1.0"
