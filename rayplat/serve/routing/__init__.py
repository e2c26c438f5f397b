"""Who answers a request, and whether a canary goes on: rules that decide. No Ray, no registry and no clock in them."""
