"""Progressive learned image compression with double-tail-drop training."""
