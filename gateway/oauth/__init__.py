"""What the gateway answers as an authorization server and as a receiver of events: routes alone, the rules are in `identity`."""
