"""From a serving spec to Ray Serve applications: the file, the plan, the applications and what runs of them."""
