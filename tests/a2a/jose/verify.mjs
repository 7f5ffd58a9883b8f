// node verify.mjs CARD_URL: reads the card, verifies each of its signatures by the keys that it names, and once more after a touch.
// BAILIWICK_TOKEN is the reader's.  Prints {name, count, signatures: [{at, kid, over}], touched: [...]}.
import canonicalize from 'canonicalize'
import { base64url, createRemoteJWKSet, decodeProtectedHeader, flattenedVerify } from 'jose'

const [url] = process.argv.slice(2)
const answer = await fetch(url, { headers: { authorization: `Bearer ${process.env.BAILIWICK_TOKEN}` } })
if (answer.status !== 200) throw new Error(`the card: ${answer.status}`)
const { signatures, ...card } = await answer.json()
const origin = new URL(url).origin

function filled(value) { // A2A 1.0: what is empty does not count
  if (Array.isArray(value)) {
    const kept = value.map(filled).filter((each) => each !== undefined)
    return kept.length ? kept : undefined
  }
  if (value === null || value === '') return undefined
  if (typeof value !== 'object') return value
  const kept = Object.entries(value).map(([name, inner]) => [name, filled(inner)]).filter(([, inner]) => inner !== undefined)
  return kept.length ? Object.fromEntries(kept) : undefined
}

async function verified(said) {
  const found = []
  for (const [at, { protected: head, signature }] of signatures.entries()) {
    const { jku, kid } = decodeProtectedHeader({ protected: head })
    if (new URL(jku).origin !== origin) throw new Error(`keys of somebody else: ${jku}`)
    const keys = createRemoteJWKSet(new URL(jku))
    const forms = { sent: canonicalize(said), filled: canonicalize(filled(said)) }
    for (const [over, text] of Object.entries(forms)) {
      const payload = base64url.encode(new TextEncoder().encode(text))
      try {
        await flattenedVerify({ protected: head, payload, signature }, keys, { algorithms: ['ES256'] })
        found.push({ at, kid, over })
      } catch (error) {
        if (error.code !== 'ERR_JWS_SIGNATURE_VERIFICATION_FAILED') throw error
      }
    }
  }
  return found
}

const touched = { ...card, name: `${card.name}.` }
console.log(JSON.stringify({ name: card.name, count: signatures.length, signatures: await verified(card), touched: await verified(touched) }))
