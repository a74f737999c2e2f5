"""Shell. Scenes with real container engines, as their distributions have them."""
