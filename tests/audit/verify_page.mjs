// Runs the checks of the browser page in Node: the very script that stands in the page, on folders and zip files of a list.
import fs from "node:fs";
import path from "node:path";
import vm from "node:vm";

const page = fs.readFileSync(process.argv[2], "utf-8");
const script = /<script id="verifier">([\s\S]*?)<\/script>/.exec(page)[1];
const verifier = vm.runInThisContext(`${script}; verifier`);

async function filesOf(place) {
  if (place.endsWith(".zip")) return verifier.unzipped(new Uint8Array(fs.readFileSync(place)));
  const found = new Map();
  for (const name of fs.readdirSync(place, { recursive: true })) {
    const full = path.join(place, name);
    if (fs.statSync(full).isFile()) found.set(name.split(path.sep).join("/"), async () => new Uint8Array(fs.readFileSync(full)));
  }
  return found;
}

for (const asked of JSON.parse(fs.readFileSync(0, "utf-8"))) {
  let report;
  try {
    report = await verifier.verify(await filesOf(asked.place), asked.key ?? "", asked.kept ?? []);
  } catch (error) {
    report = { ok: false, findings: [`${error.message}`], notes: [] };
  }
  console.log(JSON.stringify(report));
}
