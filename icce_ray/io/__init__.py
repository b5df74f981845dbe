"""Files wherever they lie: local disks, object stores and web servers."""
