"""The text of a new folder's files: comments first, nothing switched on that grants anything."""

from __future__ import annotations

SETTINGS = """\
# Bailiwick's settings.  Paths are relative to this file; `bailiwick check` reads it without starting anything.
# Any setting can also come from the environment: BAILIWICK_SERVER__PORT=9000 is `server: {{port: 9000}}`.
# Secrets never stand here.  Where one is needed, write {{env: NAME}} or {{file: secrets/name}}.

tenant: default          # the tenant that policies speak of
data: data               # keys, ledger and state that this gateway makes for itself; keep it, back it up
policies: policies       # the policy bundle: who may do what

server:
  host: 127.0.0.1
  port: 8080
  # public_url: https://gateway.example.com       # base of every published URL
  # allowed_origins: [https://app.example.com]    # web pages that may call

# Whose word counts for who somebody is: OpenID providers that issue RFC 9068 access tokens.
issuers: []
#  - alias: corp                                  # people are `user:corp/<sub>` in policies
#    issuer: https://login.example.com/
#    audience: https://gateway.example.com
#    jwks: {{url: https://login.example.com/.well-known/jwks.json}}
#    groups_claim: groups                         # groups are `idp:<group>` in policies
#  - alias: dev                                   # to try it on this machine alone: lets anybody be paul, mia or fiona
#    development: true                            # a token: `bailiwick token --user paul`
#    issuer: http://127.0.0.1:8080/dev
#    audience: http://127.0.0.1:8080
#    jwks: {{file: data/dev-jwks.json}}
#    direct_clients: [bailiwick-cli]

# Agents: those behind the gateway (url), and those that call (auth, client_ids).
agents: {{}}
#  researcher:
#    url: http://127.0.0.1:9001/
#    auth: {{secret_sha256: [<sha256 of a random secret, hex>]}}   # the secret: bws_researcher_ and 43 characters of base64url

# MCP servers: by url (Streamable HTTP) or as a child process (command).
{mcp}
#  erp:
#    url: http://127.0.0.1:9100/mcp
#    headers: {{Authorization: {{env: ERP_TOKEN, prefix: "Bearer "}}}}

sandbox:
  enabled: false         # true: the built-in MCP server `sandbox` runs agents' code in cages
"""

GITIGNORE = """\
# Keys, ledger and state; and secrets.  Neither belongs into version control.
/data/
/secrets/
"""

README = """\
# A Bailiwick folder

| file | what it is | who changes it |
|---|---|---|
| `bailiwick.yaml` | settings: where to listen, whom to trust, what is behind | operators |
| `policies/` | who may do what; every change is worth a review | the security team |
| `data/` | keys, ledger, state: made on the first start, never committed | nobody |
| `secrets/` | one secret a file, readable by you alone, never committed | operators |

    bailiwick check          # settings and policies, without starting anything
    bailiwick policy test    # the rows of policies/tests/: what must be allowed, what must be denied
    bailiwick explain --for user:corp/mia --via researcher --call erp.read
    bailiwick serve

Nothing is allowed until `policies/tools.yaml` registers a tool and a line in `policies/grants/` grants it, to the person and to
every agent in between.  A policy goes live only if its own tests pass and prove a denial: whoever grants something adds a row to
`policies/tests/` that shows who may, beside the row that shows who may not.
"""


def settings(mcp: str = "mcp: {}\n") -> str:
    """The text of `bailiwick.yaml` with this `mcp:` group."""
    return SETTINGS.format(mcp=mcp.rstrip("\n"))
