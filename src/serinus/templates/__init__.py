"""Files that `serinus init` copies. `$name` and `$class_name` are replaced; nothing here is imported."""
