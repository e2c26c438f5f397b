"""Release control in the hosts and its verdicts: splits, shadows and canaries, followed, acted on and judged."""
