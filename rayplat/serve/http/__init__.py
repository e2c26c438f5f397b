"""The model hosts' side of HTTP: exchanges, routes, compression, and requests relayed between processes."""
