"""The inference log: taps in the hosts, spools on their machines, and the one writer into Delta."""
