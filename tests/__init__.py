"""Shell. All tests of meshnet, from pure to real; CONTRIBUTING.md has the table of tiers."""
