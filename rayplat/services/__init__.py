"""What the platform can do, one file for each noun. The same methods are HTTP routes, client methods and commands."""
