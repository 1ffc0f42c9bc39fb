"""What trbert keeps on a disk: whole files, locks, checksums, and the cache."""
