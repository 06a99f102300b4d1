"""Model files on disks that workers share.

A model is found where it is, else downloaded once, verified, published whole.
"""
