"""Face. The `meshnet` command."""
