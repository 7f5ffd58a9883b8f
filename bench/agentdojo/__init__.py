"""AgentDojo's tasks, replayed through the gateway: attacks stopped and honest work let through."""
