"""Tests of configured providers, their prices and how they are checked."""
