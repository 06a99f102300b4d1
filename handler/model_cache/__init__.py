"""Model files on disks that workers share: found where they are, else downloaded once, verified, published whole."""
