"""Cached answers, in memory or shared through Redis."""
