import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { ACT_TYPES } from "./acts.ts";
import { actsPage } from "./acts-page.ts";
import { recordSchemas } from "./json-schema.ts";

const docs = join(import.meta.dirname, "../../docs");

it("documents every record as the program validates it (npm run docs)", () => {
  for (const [name, schema] of recordSchemas()) {
    expect(JSON.parse(readFileSync(join(docs, name), "utf8")), name).toEqual(JSON.parse(JSON.stringify(schema)));
  }
});

it("documents no record that doesn't exist", () => {
  const written = ["acts", "records"].flatMap((folder) =>
    readdirSync(join(docs, folder)).map((name) => `${folder}/${name}`),
  );
  expect(written.sort()).toEqual(["acts/README.md", ...recordSchemas().keys()].sort());
});

it("documents every act on one page", () => {
  const page = readFileSync(join(docs, "acts/README.md"), "utf8");
  for (const type of ACT_TYPES) expect(page).toMatch(new RegExp(`^\\| \\[${type}\\]\\(${type}.json\\) `, "m"));
  const words = (text: string) => text.replaceAll(/[\s|-]+/g, " ");
  expect(words(page)).toBe(words(actsPage()));
});

it("knows every field of what it validates: no object takes one more", () => {
  const open: string[] = [];
  const walk = (node: unknown, path: string): void => {
    if (node === null || typeof node !== "object") return;
    const { type, properties, additionalProperties } = node as Record<string, unknown>;
    if (type === "object" && properties !== undefined && additionalProperties !== false) open.push(path);
    for (const [name, item] of Object.entries(node)) walk(item, `${path}.${name}`);
  };
  for (const [name, schema] of recordSchemas()) if (name.startsWith("acts/")) walk(schema, name);
  expect(open).toEqual([]);
});
