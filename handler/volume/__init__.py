"""Files on a volume that others may write to: links and special files that they have planted lead nowhere."""
