"""The way out for sandboxed code: named hosts and ports alone, each connection decided, pinned and recorded."""
