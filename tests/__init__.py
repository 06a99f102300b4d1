"""Tests mirror the packages; contract/ runs both sides of an interface, e2e/ runs the programs as users do."""
