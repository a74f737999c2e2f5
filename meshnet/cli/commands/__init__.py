"""Face. One module a subject; each is imported when one of its commands is called."""
