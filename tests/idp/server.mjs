// An identity provider for the tests: `oidc-provider` as it is published, its own login and consent pages, and a door on loopback
// by which a test turns its keys and its clock.  Reads its settings as one JSON text from stdin; says `{"issuer": …}` on stdout.
import { timingSafeEqual } from 'node:crypto'
import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'

import { createLocalJWKSet, createRemoteJWKSet, importJWK, jwtVerify, SignJWT } from 'jose'
import Provider, { errors } from 'oidc-provider'
import { createMemoryAdapter } from 'oidc-provider/lib/adapters/memory_adapter.js'

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token'
const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer'
const ID_JAG = 'urn:ietf:params:oauth:token-type:id-jag'

const { port, control, keys: firstKeys, clients, people, resources, ttl, trusts } = JSON.parse(await text(process.stdin))
const now = Date.now
const adapter = createMemoryAdapter()  // tokens and sessions outlive a change of keys
const actors = new WeakMap()
let ahead = 0
let keys = firstKeys
let answer
Date.now = () => now() + ahead * 1000

function target(uri) {
  const resource = resources[uri]
  if (resource === undefined) throw new errors.InvalidTarget('no such resource')
  const { audience, scope, format = 'jwt', alg = 'ES256' } = resource
  return {
    audience, scope, accessTokenTTL: ttl, accessTokenFormat: format, ...(format === 'jwt' ? { jwt: { sign: { alg } } } : {}),
  }
}

// RFC 8693: an access token of a person, for one of another audience with the exchanging client as its actor (or an ID-JAG).
async function exchange(ctx) {
  const { params, client, provider } = ctx.oidc
  if (params.subject_token_type !== ACCESS_TOKEN) throw new errors.InvalidRequest('subject_token_type')
  let subject
  if (params.subject_token?.includes('.')) {
    const { payload } = await jwtVerify(params.subject_token, createLocalJWKSet(publicKeys()), {
      issuer: provider.issuer, audience: Object.values(resources).map((resource) => resource.audience), typ: 'at+jwt',
      currentDate: new Date(Date.now()),
    }).catch(() => { throw new errors.InvalidGrant('subject_token') })
    subject = payload.sub
  } else {
    const token = await provider.AccessToken.find(params.subject_token)
    if (!token?.isValid) throw new errors.InvalidGrant('subject_token')
    subject = token.accountId
  }
  if (params.requested_token_type === ID_JAG) {
    const lifetime = 60
    const key = keys.find(({ alg }) => alg === 'ES256')
    const jag = await new SignJWT({ client_id: client.clientId, resource: params.resource, scope: params.scope })
      .setProtectedHeader({ alg: 'ES256', kid: key.kid, typ: 'oauth-id-jag+jwt' })
      .setIssuer(provider.issuer).setSubject(subject).setAudience(params.audience).setJti(crypto.randomUUID())
      .setIssuedAt(Math.floor(Date.now() / 1000)).setExpirationTime(Math.floor(Date.now() / 1000) + lifetime)
      .sign(await importJWK(key, 'ES256'))
    ctx.body = { access_token: jag, issued_token_type: ID_JAG, token_type: 'N_A', expires_in: lifetime }
    return
  }
  const token = new provider.AccessToken({ accountId: subject, client, gty: 'token_exchange', scope: params.scope })
  token.resourceServer = new provider.ResourceServer(params.resource, target(params.resource))
  actors.set(token, { sub: client.clientId })
  const value = await token.save()
  ctx.body = {
    access_token: value, issued_token_type: ACCESS_TOKEN, token_type: token.tokenType, expires_in: token.expiration, scope: token.scope,
  }
}

// RFC 7523 with an ID-JAG: the provider that it trusts says who the person is, and for which of its clients.
async function redeem(ctx) {
  const { params, client, provider } = ctx.oidc
  const { payload } = await jwtVerify(params.assertion, createRemoteJWKSet(new URL(`${trusts}/jwks`)), {
    issuer: trusts, audience: provider.issuer, typ: 'oauth-id-jag+jwt', requiredClaims: ['sub', 'client_id', 'resource', 'jti', 'exp'],
  }).catch(() => { throw new errors.InvalidGrant('assertion') })
  if (payload.client_id !== client.clientId) throw new errors.InvalidGrant('assertion')
  const token = new provider.AccessToken({ accountId: payload.sub, client, gty: 'jwt_bearer', scope: payload.scope })
  token.resourceServer = new provider.ResourceServer(payload.resource, target(payload.resource))
  const value = await token.save()
  ctx.body = { access_token: value, token_type: token.tokenType, expires_in: token.expiration, scope: token.scope }
}

function publicKeys() {
  return { keys: keys.map(({ d, p, q, dp, dq, qi, ...rest }) => rest) }
}

function build(issuer) {
  const provider = new Provider(issuer, {
    adapter,
    clients,
    jwks: { keys },
    cookies: { keys: [control] },
    claims: { openid: ['sub'], profile: ['name', 'groups'] },
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    enabledJWA: { clientAuthSigningAlgValues: ['ES256', 'RS256'] },
    clockTolerance: 15,
    ttl: { AccessToken: ttl, ClientCredentials: ttl, Grant: 86400, Session: 86400, Interaction: 600, IdToken: 600, RefreshToken: 86400 },
    findAccount: (_ctx, id) => (id in people ? { accountId: id, claims: () => ({ sub: id, ...people[id] }) } : undefined),
    extraTokenClaims: (_ctx, token) => ({
      ...(token.accountId ? people[token.accountId] : {}), ...(actors.has(token) ? { act: actors.get(token) } : {}),
    }),
    issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      dPoP: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo: (_ctx, uri) => target(uri),
      },
    },
  })
  provider.registerGrantType(EXCHANGE, exchange, [
    'audience', 'resource', 'scope', 'subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type',
  ])
  if (trusts) provider.registerGrantType(JWT_BEARER, redeem, ['assertion', 'scope'])
  return provider.callback()
}

async function controlled(request, response) {
  const shown = Buffer.from(request.headers['control'] ?? '')
  const wanted = Buffer.from(control)
  if (shown.length !== wanted.length || !timingSafeEqual(shown, wanted)) return response.writeHead(403).end()
  const said = JSON.parse(await text(request))
  if ('ahead' in said) ahead = said.ahead
  if ('people' in said) Object.assign(people, said.people)
  if ('keys' in said) {
    keys = said.keys
    answer = build(server.issuer)
  }
  return response.writeHead(204).end()
}

const server = createServer((request, response) => {
  response.setHeader('Date', new Date(Date.now()).toUTCString())
  return (request.url === '/control' ? controlled : answer)(request, response)
})
server.listen(port, '127.0.0.1', () => {
  server.issuer = `http://127.0.0.1:${server.address().port}`
  answer = build(server.issuer)
  console.log(JSON.stringify({ issuer: server.issuer }))
})
