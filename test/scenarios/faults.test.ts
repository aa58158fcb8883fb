import { it } from "vitest";
import { expectOneCertificateEach } from "../support/faults/suite.ts";

/** The short form; `npm run test:faults` runs it in full. */
it("gives every CSR exactly one certificate while site, Postgres, Temporal and hub are killed", async () => {
  // Some batches are so small that they are worked on together, some aren't.
  await expectOneCertificateEach({ csrs: 500, kills: 6, lanes: 12, batch: 24 });
}, 300_000);
