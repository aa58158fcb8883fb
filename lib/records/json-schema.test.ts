import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
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
  expect(written.sort()).toEqual([...recordSchemas().keys()].sort());
});
