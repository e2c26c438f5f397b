"""The reference application: New York flights of 2013."""
