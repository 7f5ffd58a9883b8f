// The client of npm as a driver: does the steps of a script, and says what it got and what HTTP said meanwhile.
// In: {modules, script, zero, lanes: [[{name, url, headers, binding, known}]]}; lanes go side by side, the runs of one in turn.
// Out: by name, a transcript, as sdk.py makes it.

import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const task = JSON.parse(await new Response(process.stdin).text());
const sdk = join(task.modules, '@a2a-js/sdk/dist');
const load = (path) => import(pathToFileURL(join(sdk, path)));
const { ClientFactory, DefaultAgentCardResolver, JsonRpcTransportFactory, RestTransportFactory } = await load('client/index.js');
const types = await load('index.js');
const STEP_MS = 20_000;

const CALLS = {
  GetTask: ['getTask', types.GetTaskRequest, types.Task],
  ListTasks: ['listTasks', types.ListTasksRequest, types.ListTasksResponse],
  CancelTask: ['cancelTask', types.CancelTaskRequest, types.Task],
  SubscribeToTask: ['resubscribeTask', types.SubscribeToTaskRequest, types.StreamResponse],
  CreateTaskPushNotificationConfig: [
    'createTaskPushNotificationConfig', types.TaskPushNotificationConfig, types.TaskPushNotificationConfig],
  GetTaskPushNotificationConfig: [
    'getTaskPushNotificationConfig', types.GetTaskPushNotificationConfigRequest, types.TaskPushNotificationConfig],
  ListTaskPushNotificationConfigs: [
    'listTaskPushNotificationConfig', types.ListTaskPushNotificationConfigsRequest, types.ListTaskPushNotificationConfigsResponse],
  DeleteTaskPushNotificationConfig: ['deleteTaskPushNotificationConfig', types.DeleteTaskPushNotificationConfigRequest, undefined],
};

// What the client gave, member by member, as JSON can carry it.
const plain = (value) => {
  if (typeof value === 'bigint') return `${value}n`;
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString('base64') };
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(plain);
  if (value !== null && typeof value === 'object') {
    const members = Object.entries(value).filter(([, inner]) => inner !== undefined);
    return Object.fromEntries(members.map(([name, inner]) => [name, plain(inner)]));
  }
  return value;
};
// A card as the client understands it: its resolver leaves some as they came.
const whole = (card) => types.AgentCard.toJSON(types.AgentCard.fromJSON(card));
const raised = (error) => {
  const { headers, ...members } = error; // whole headers of HTTP, with its dates and lengths
  return { type: error.constructor.name, text: error.message, ...plain(members) };
};

const filled = (value, known, said) => {
  if (Array.isArray(value)) return value.map((inner) => filled(inner, known, said));
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, filled(inner, known, said)]));
  }
  if (typeof value !== 'string') return value;
  if (value.startsWith('$')) {
    const [step, ...path] = value.slice(1).split('.');
    const found = path.reduce((at, name) => at?.[name], said[step]);
    return typeof found === 'string' && found ? found : task.zero;
  }
  return Object.entries(known).reduce((text, [word, put]) => text.replaceAll(`@${word}@`, put), value);
};

class Driver {
  constructor(client, card, said) {
    Object.assign(this, { client, card, said });
  }

  // The answer to a step; `note` is told what a step refers to by, and what has come of it so far.
  async do(step, note) {
    const { op, params } = step;
    if (op === 'Card') return this.card;
    if (op === 'GetExtendedAgentCard') return whole(await this.client.getAgentCard());
    if (op === 'SendMessage') {
      const answer = await this.client.sendMessage(types.SendMessageRequest.fromJSON(params));
      this.said[step.step] = answer;
      return plain(answer);
    }
    if (op === 'SendStreamingMessage') {
      return this.events(this.client.sendMessageStream(types.SendMessageRequest.fromJSON(params)), step, note);
    }
    const [name, asked, given] = CALLS[op];
    const call = this.client[name](asked.fromJSON(params));
    if (op === 'SubscribeToTask') return this.events(call, step, note);
    const answer = await call;
    if (given) this.said[step.step] = given.toJSON(answer);
    return plain(answer);
  }

  async events(stream, step, note) {
    const found = [];
    note.said = found;
    for await (const event of stream) {
      found.push(plain(event));
      if (step.then && found.length === step.then.events) note.then = await this.do(step.then, {});
    }
    return found;
  }
}

const within = (promise) => {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('too late')), STEP_MS); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

async function run({ url, headers, binding, known }) {
  const http = [];
  const fetchImpl = async (address, init = {}) => {
    const answer = await fetch(address, { ...init, headers: { ...init.headers, ...headers } });
    http.push([answer.status, (answer.headers.get('content-type') ?? '').split(';')[0]]);
    return answer;
  };
  const factory = new ClientFactory({
    transports: [new JsonRpcTransportFactory({ fetchImpl }), new RestTransportFactory({ fetchImpl })],
    preferredTransports: [binding],
  });
  const transcript = [];
  const said = {};
  let driver;
  try {
    const card = await new DefaultAgentCardResolver({ fetchImpl }).resolve(url);
    driver = new Driver(await factory.createFromAgentCard(card), whole(card), said);
  } catch (error) {
    return [{ step: 'card', raised: raised(error), http }];
  }
  for (const step of task.script) {
    const entry = { step: step.step };
    try {
      entry.said = await within(driver.do(filled(step, known, said), entry));
    } catch (error) {
      entry.raised = raised(error);
    }
    entry.http = http.splice(0);
    transcript.push(entry);
  }
  return transcript;
}

const lanes = await Promise.all(task.lanes.map(async (lane) => {
  const done = [];
  for (const each of lane) done.push([each.name, await run(each)]);
  return done;
}));
process.stdout.write(JSON.stringify(Object.fromEntries(lanes.flat())));
