"""Pure. The values meshnet speaks about: names, keys, addresses, statements, records, the view."""
