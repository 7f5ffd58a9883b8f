// Calls tools through the gateway that runs this code: `call("erp.read", { id: "7" })`.
// Every call is decided as if the person and the agents on whose behalf this code runs had made it themselves, and is on record.
import fs from "node:fs";

const MOST = 16 * 1024 * 1024;
const descriptor = Number(process.env.BAILIWICK_TOOLS || NaN);
let number = 0;

export class ToolError extends Error {
  // code: the gateway's stable code, as `user-lacks-right`; `tool-error` where the tool itself said no.
  constructor(code, message, decision = "") {
    super(`${code}: ${message}`);
    this.code = code;
    this.decision = decision;
  }
}

function take(size) {
  const whole = Buffer.alloc(size);
  for (let at = 0; at < size; ) {
    const got = fs.readSync(descriptor, whole, at, size - at, null);
    if (got === 0) throw new ToolError("closed", "the gateway takes no more calls of this run");
    at += got;
  }
  return whole;
}

// What the tool `server.name` returns: its structured result, or else its text; throws ToolError where there is none.
export function call(tool, args = {}) {
  if (Number.isNaN(descriptor)) throw new ToolError("not-offered", "the profile of this run lets code call no tools");
  const said = Buffer.from(JSON.stringify({ id: ++number, tool, arguments: args }));
  const frame = Buffer.alloc(4 + said.length);
  frame.writeUInt32BE(said.length);
  said.copy(frame, 4);
  let answer;
  try {
    for (let at = 0; at < frame.length; ) at += fs.writeSync(descriptor, frame, at);
    const length = take(4).readUInt32BE();
    if (length > MOST) throw new ToolError("too-large", "the answer is larger than any that the gateway sends");
    answer = JSON.parse(take(length).toString());
  } catch (error) {
    if (error instanceof ToolError) throw error;
    throw new ToolError("closed", "the gateway takes no more calls of this run");
  }
  if ("result" in answer) return answer.result;
  throw new ToolError(answer.code, answer.message, answer.decision);
}
