// What code in JavaScript tries, with node's own doors; PARAMETERS stands in front.  Prints one JSON object: attempt → outcome.
import child_process from "node:child_process";
import cluster from "node:cluster";
import dgram from "node:dgram";
import dns from "node:dns/promises";
import fs from "node:fs";
import inspector from "node:inspector";
import http from "node:http";
import { createRequire } from "node:module";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import tls from "node:tls";
import vm from "node:vm";
import { Worker } from "node:worker_threads";

const P = PARAMETERS, at = (name) => path.join(P.folder, name), require = createRequire(import.meta.url);
const told = (text) => { if (!String(text).includes(P.canary)) throw Object.assign(new Error("no effect"), { code: "NOEFFECT" }); };
const once = (thing, good) => new Promise((resolve, reject) => {
  thing.once("error", reject); thing.once(good, resolve);
  setTimeout(() => reject(Object.assign(new Error("late"), { code: "ETIMEDOUT" })), 2000);
});

const ATTEMPTS = {
  // Read a file outside by its path.
  read_a_file: () => told(fs.readFileSync(at("secret"))),
  // The same through a symbolic link made here.
  read_through_a_link: () => { fs.symlinkSync(at("secret"), "soft"); told(fs.readFileSync("soft")); },
  // The same asynchronously, by the pool of threads.
  read_by_the_pool: async () => told(await fs.promises.readFile(at("secret"))),
  // The same by a file URL and a stream.
  read_by_a_url: async () => { const chunks = []; for await (const c of fs.createReadStream(new URL("file://" + at("secret")))) chunks.push(c); told(Buffer.concat(chunks)); },
  // require of a file outside.
  require_a_file: () => { fs.copyFileSync(at("secret"), "copied.json"); told(fs.readFileSync("copied.json")); },
  // import() of a module outside.
  import_a_module: async () => { await import("file://" + at("module.mjs")); },
  // Node's internal binding to the file system, beneath every check of its library.
  read_by_the_binding: () => { const fd = process.binding("fs").open(at("secret"), 0, 0o666); fs.readSync(fd, Buffer.alloc(8)); },
  // The permission-free view of another process through /proc.
  read_the_gateways_environment: () => told(fs.readFileSync(`/proc/${P.gateway}/environ`)),
  // What this process itself was given.
  find_a_secret_in_the_environment: () => told(JSON.stringify(process.env)),
  // Diagnostic report: environment, libraries and limits in a file.
  find_a_secret_in_the_report: () => told(JSON.stringify(process.report.getReport())),
  // List a folder outside.
  list_a_folder: () => fs.readdirSync(P.folder),
  // Watch a folder outside.
  watch_a_folder: () => fs.watch(P.folder).close(),
  // Append to a file outside.
  append_to_a_file: () => fs.appendFileSync(at("overwritten"), "x"),
  // Make a folder outside.
  make_a_folder: () => fs.mkdirSync(at("made-by-node")),
  // Rename a file outside to the inside.
  take_a_file_in: () => fs.renameSync(at("takable"), "taken"),
  // Change a mode outside.
  change_a_mode: () => { const before = fs.statSync(at("mode")).mode; fs.chmodSync(at("mode"), 0o611); if (fs.statSync(at("mode")).mode === before) throw Object.assign(new Error(), { code: "NOEFFECT" }); },
  // Load a native library from outside.
  load_a_library: () => { try { process.dlopen({ exports: {} }, at("library.so")); } catch (error) { if (!String(error.message).includes("Module did not self-register")) throw Object.assign(error, { code: "EACCES" }); } },
  // Run a shell.
  run_a_shell: () => { const done = child_process.spawnSync("/bin/sh", ["-c", "exit 0"]); if (done.error) throw done.error; },
  // Run a program from outside.
  run_a_program: () => { const done = child_process.spawnSync(at("program")); if (done.error) throw done.error; },
  // A TCP connection.
  connect_by_tcp: () => once(net.connect(P.tcp, "127.0.0.1"), "connect"),
  // An HTTP request.
  ask_by_http: () => once(http.get({ host: "127.0.0.1", port: P.tcp }), "socket").then((socket) => once(socket, "connect")),
  // TLS.
  connect_by_tls: () => { const socket = tls.connect(P.tcp, "127.0.0.1"); return once(socket, "connect"); },
  // A datagram.
  send_by_udp: async () => { const socket = dgram.createSocket("udp4"); await new Promise((resolve, reject) => { socket.once("error", reject); socket.send("x", P.udp, "127.0.0.1", (error) => error ? reject(error) : resolve()); }); socket.close(); },
  // fetch, which brings its own client.
  fetch: async () => { try { await fetch(`http://127.0.0.1:${P.tcp}/`, { signal: AbortSignal.timeout(300) }); } catch (error) { if (error.name !== "TimeoutError") throw error.cause ?? error; } },
  // A server for others.
  listen: async () => { const server = net.createServer(); const ready = once(server, "listening"); server.listen(0, "127.0.0.1"); await ready; server.close(); },
  // A Unix socket by its path.
  connect_to_a_named_socket: () => once(net.connect(at("stream")), "connect"),
  // A name, by the pool of threads.
  resolve_a_name: async () => { await dns.lookup("localhost"); net.createServer().listen(at("never")).on("error", () => {}); await once(net.connect(P.tcp, "localhost"), "connect"); },
  // The inspector's port, for a debugger outside.
  open_the_inspector: () => { inspector.open(0, "127.0.0.1"); if (!inspector.url()) throw Object.assign(new Error("no port"), { code: "EPERM" }); inspector.close(); },
  // A signal to another process.
  signal_a_bystander: () => process.kill(P.bystander, "SIGCONT"),
  // SIGUSR1, which opens a node's inspector, to the parent.
  signal_the_warden: () => process.kill(process.ppid, 0),
  // Another process's priority.
  renice_a_bystander: () => os.setPriority(P.bystander, os.getPriority(P.bystander)),
  // A worker with a file outside.
  read_in_a_worker: async () => { const worker = new Worker(`require("fs").readFileSync(${JSON.stringify(at("secret"))})`, { eval: true }); await once(worker, "exit"); },
  // A cluster, whose primary hands out sockets.
  fork_a_cluster: async () => { cluster.setupPrimary({ exec: at("program.mjs") }); const worker = cluster.fork({ STOP: "1" }); try { await once(worker, "listening"); } finally { worker.process.kill("SIGKILL"); } },
  // Out of a vm context by its constructor.
  leave_a_context: () => told(vm.runInNewContext("this.constructor.constructor('return process')().env.GATEWAY_SECRET")),
  // Root's identity.
  become_root: () => { process.setuid(0); },
};

const found = {};
for (const [name, attempt] of Object.entries(ATTEMPTS)) {
  try { await attempt(); found[name] = "open"; } catch (error) {
    found[name] = error.code === "NOEFFECT" ? "no effect" : `refused: ${error.code ?? error.message}`;
  }
}
fs.writeSync(1, JSON.stringify(found));
process.exit(0);
