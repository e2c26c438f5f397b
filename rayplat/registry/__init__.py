"""The registry: versions, aliases, promotions, approvals, tokens and the audit log, behind one actor."""
