"""Tests of the pure values and arithmetic."""
