import { expect, it } from "vitest";
import { Findings, type Finding } from "./finding.ts";

it("counts every finding, lists the first of each severity, and lets what is open hide nothing that is wrong", () => {
  const findings = new Findings(3);
  const add = (severity: Finding["severity"], count: number): void => {
    for (let i = 0; i < count; i++) findings.add({ severity, code: "alarm", party: "p", message: `${severity} ${i}` });
  };
  add("open", 10);
  add("error", 5);
  expect(findings).toMatchObject({ errors: 5, open: 10 });
  expect(findings.list.map(({ message }) => message)).toEqual(
    ["open", "error"].flatMap((severity) => [0, 1, 2].map((i) => `${severity} ${i}`)),
  );
});
