// Writes docs/acts, docs/records and docs/profiles.md from what the program validates with: `npm run docs`.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { actsPage } from "../lib/records/acts-page.ts";
import { recordSchemas } from "../lib/records/json-schema.ts";
import { profilesPage } from "../lib/pki/profiles-page.ts";

for (const [name, schema] of recordSchemas()) {
  const path = join(import.meta.dirname, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(schema, null, 2)}\n`);
}

writeFileSync(join(import.meta.dirname, "profiles.md"), profilesPage());
writeFileSync(join(import.meta.dirname, "acts", "README.md"), actsPage());
