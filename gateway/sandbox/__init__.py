"""The built-in MCP server `sandbox`: code of agents, decided as every call is, run in a cage whose isolation is proven."""
