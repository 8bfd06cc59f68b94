"""The command line: `looptune`, a thin layer over `tools/`; `call` and `resource` go through a real MCP session."""
