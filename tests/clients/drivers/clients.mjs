// Clients of npm: the TypeScript SDK in both of its lines, mcp-remote under the first, and the Inspector's command line.
// Takes and gives what task.py says.

import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

const task = JSON.parse(await new Response(process.stdin).text());
const modules = task.modules;
const require = createRequire(join(modules, 'x.js'));
const one = {
  ...(await import(require.resolve('@modelcontextprotocol/sdk/client/index.js'))),
  ...(await import(require.resolve('@modelcontextprotocol/sdk/client/streamableHttp.js'))),
  ...(await import(require.resolve('@modelcontextprotocol/sdk/client/stdio.js'))),
};
const two = await import(join(modules, '@modelcontextprotocol/client/dist/index.mjs'));

const [PERMITTED, DENIED] = [{ n: 1 }, { n: 5000 }];
const [RESOURCE, PROMPT] = ['test://static-text', 'test_simple_prompt'];
const said = (error) => `${error.constructor.name}: ${error.message}`;

async function steps(client, { prefix, others }, report, options = (handlers) => [undefined, handlers]) {
  const seen = [];
  const call = (name, args, handlers) => client.callTool({ name: `${prefix}${name}`, arguments: args }, ...options(handlers));
  report.tools = (await client.listTools()).tools.map((tool) => tool.name).sort();
  report.structured = (await call('gw_structured', {})).structuredContent;
  report.permitted = (await call('gw_big', PERMITTED)).content[0].text;
  const refused = await call('gw_big', DENIED);
  report.denied = { how: 'value', error: refused.isError ?? false, text: refused.content[0].text.slice(0, 400) };
  report.hidden = await call('gw_sleep', {}).then(() => '', said);
  await call('test_tool_with_progress', {}, { onprogress: (at) => seen.push(at.progress) });
  report.progress = seen;
  report.resource = (await client.readResource({ uri: RESOURCE })).contents[0].text;
  report.resources = (await client.listResources()).resources.map((found) => found.uri).sort();
  report.prompt = (await client.getPrompt({ name: `${prefix}${PROMPT}` })).messages[0].content.text;
  report.others = [];
  for (const name of others) report.others.push((await client.callTool({ name, arguments: {} })).content[0].text);
}

async function first(target, report) {
  const transport = new one.StreamableHTTPClientTransport(new URL(target.url), { requestInit: { headers: target.headers } });
  const client = new one.Client({ name: 'driver', version: '1' });
  await client.connect(transport);
  await steps(client, target, report);
  await transport.terminateSession();
  await client.close();
}

const second = (mode) => async (target, report) => {
  const transport = new two.StreamableHTTPClientTransport(new URL(target.url), { requestInit: { headers: target.headers } });
  const client = new two.Client({ name: 'driver', version: '1' }, mode ? { versionNegotiation: { mode } } : {});
  await client.connect(transport);
  await steps(client, target, report, (handlers) => [handlers]);
  report.version = client.getNegotiatedProtocolVersion?.();
  await client.close();
};

async function remote(target, report) {
  const lines = Object.entries(target.headers).flatMap(([name, value]) => ['--header', `${name}: ${value}`]);
  const args = [join(modules, 'mcp-remote/dist/proxy.js'), target.url, '--transport', 'http-only', '--allow-http', ...lines];
  const env = { PATH: process.env.PATH, HOME: process.env.HOME };
  const transport = new one.StdioClientTransport({ command: process.execPath, args, env, stderr: 'ignore' });
  const client = new one.Client({ name: 'driver', version: '1' });
  await client.connect(transport);
  await steps(client, target, report);
  await client.close();
}

async function inspector(target, report) {
  const program = join(modules, '@modelcontextprotocol/inspector/clients/cli/build/index.js');
  const lines = Object.entries(target.headers).flatMap(([name, value]) => ['--header', `${name}: ${value}`]);
  const run = (method, ...more) => {
    const args = [program, '--server-url', target.url, '--transport', 'http', '--method', method, ...lines, ...more];
    return promisify(execFile)(process.execPath, args, { env: { PATH: process.env.PATH, HOME: process.env.HOME } });
  };
  const call = (name, args, prefix = target.prefix) =>
    run('tools/call', '--tool-name', `${prefix}${name}`, '--tool-args-json', JSON.stringify(args));
  const runs = [
    run('tools/list'),
    call('gw_structured', {}),
    call('gw_big', DENIED).catch((error) => error),
    run('resources/read', '--uri', RESOURCE),
    run('prompts/get', '--prompt-name', `${target.prefix}${PROMPT}`),
    ...target.others.map((name) => call(name, {}, '')),
  ];
  await Promise.allSettled(runs);
  report.tools = JSON.parse((await runs[0]).stdout).tools.map((tool) => tool.name).sort();
  report.structured = JSON.parse((await runs[1]).stdout).structuredContent;
  const answer = JSON.parse((await runs[2]).stdout);
  report.denied = { how: 'value', error: answer.isError ?? false, text: answer.content[0].text.slice(0, 400) };
  report.resource = JSON.parse((await runs[3]).stdout).contents[0].text;
  report.prompt = JSON.parse((await runs[4]).stdout).messages[0].content.text;
  report.others = (await Promise.all(runs.slice(5))).map((done) => JSON.parse(done.stdout).content[0].text);
}

const clients = {
  'typescript 1': first,
  'typescript 2': second(),
  'typescript 2 auto': second('auto'),
  'mcp-remote': remote,
  inspector,
};

async function asked(ask, target) {
  const report = {};
  try {
    await Promise.race([
      ask(target, report),
      new Promise((_, no) => setTimeout(() => no(new Error('its time has passed')), 150_000).unref()),
    ]);
    report.closed = true;
  } catch (error) {
    report.failed = `${said(error)} ${error.stack}`.slice(0, 2000);
  }
  return [target.kind, report];
}

const reports = {};
for (const [name, ask] of Object.entries(clients))
  reports[name] = Object.fromEntries(await Promise.all(task.targets.map((target) => asked(ask, target))));
process.stdout.write(JSON.stringify(reports), () => process.exit(0));
