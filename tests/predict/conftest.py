"""The bundle's tests use the models of the registry's tests."""

from tests.registry.conftest import layout, made, own_store, params, store

__all__ = ["layout", "made", "own_store", "params", "store"]
