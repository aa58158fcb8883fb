import { it } from "vitest";
import { expectOneCertificateEach } from "../support/faults/suite.ts";

it("gives each of 5,000 CSRs exactly one certificate through 60 kills", async () => {
  await expectOneCertificateEach({ csrs: 5_000, kills: 60, lanes: 6, batch: 48 });
}, 1_800_000);
