"""The record of every request: its columns, and what is made of them."""
