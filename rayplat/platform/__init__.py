"""The platform's life on this machine: `lifecycle.up`, `lifecycle.status`, `lifecycle.down`, and what they rest on."""
