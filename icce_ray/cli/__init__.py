"""The `icce` command."""
