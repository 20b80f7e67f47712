"""The loss ledger: what devices say they sensed and sent, held against what lies in the topics."""
