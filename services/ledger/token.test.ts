import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createPinFile, initToken, nodeVerify, openToken, type Token } from "../../hsm/index.ts";
import { auditLog } from "../../lib/ledger/audit-log.ts";
import { ed25519Raw, KEY_TYPE, noteKey } from "../../lib/ledger/note.ts";
import { webCryptoVerify } from "../../lib/pki/verify.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { connect, inTransaction, migrate, type Db } from "../../store/db.ts";
import { PROJECT_ROOT, softhsmDir, tempDir, testDatabase } from "../../test/support/index.ts";
import { Acts } from "./acts.ts";
import { actKey } from "./admission.ts";
import { createLedger, Sequencer } from "./sequencer.ts";
import { databaseSource } from "./serve.ts";

const ORIGIN = "factory-y.example/log";
let token: Token;
let db: Db;

beforeAll(async () => {
  const { module } = softhsmDir();
  const pin = await createPinFile(join(tempDir("pin"), "factory-y.pin"));
  await initToken({ module, label: "factory-y", pin });
  token = await openToken({ module, uri: "pkcs11:token=factory-y", pin });
  db = connect((await testDatabase()).url);
  const folder = tempDir("migrations");
  for (const name of ["010-ledger.sql", "011-ledger-rows.sql", "064-witness.sql"]) {
    copyFileSync(join(PROJECT_ROOT, "store/migrations", name), join(folder, name));
  }
  await migrate(db, folder);
});
afterAll(async () => {
  await db.end();
  await token.close();
});

it("signs checkpoints and acts with keys that never leave the token", async () => {
  const log = await token.generateKey({ label: "log", algorithm: "ed25519" });
  const act = await token.generateKey({ label: "act", algorithm: "ec-p256" });
  await createLedger({ db, origin: ORIGIN, signer: log });
  const acts = new Acts({ db, origin: ORIGIN, party: "factory-y" });
  const errors: unknown[] = [];
  const sequencer = new Sequencer({
    db,
    origin: ORIGIN,
    signer: log,
    actKeys: () => [actKey(act.spki, act.algorithm)],
    verify: nodeVerify,
    onError: (error) => errors.push(error),
  });
  sequencer.start();
  const sha256 = "ab".repeat(32);
  const subject = [{ name: "batch", digest: { sha256 } }];
  const lines = await inTransaction(db, (tx) =>
    acts.recordLines(
      tx,
      Array.from({ length: 50 }, (_, n) => ({
        type: "intent" as const,
        workflowId: "lot/L1",
        stepKey: `intent-${n}`,
        subject,
        fields: { lot: "L1", manifest: sha256, tbsRoot: sha256, count: 1 },
      })),
    ),
  );
  const signed = await acts.recordSigned(
    {
      type: "hub-registered",
      workflowId: "hub/H1",
      stepKey: "register",
      subject,
      fields: { hub: "hub", caSha256: sha256, codeSha256: sha256 },
    },
    act,
  );
  const keys = [...lines, signed].map((recorded) => recorded.retryKey);
  const included = await acts.waitIncluded(keys, { timeoutMs: 20_000 });
  expect(included).toHaveLength(51);
  await sequencer.stop();
  acts.close();

  // Read by what shares nothing with the token: WebCrypto, from public keys alone.
  const key = noteKey(ORIGIN, KEY_TYPE.ed25519, ed25519Raw(log.spki));
  const types: string[] = [];
  const audit = await auditLog({
    fetch: databaseSource(db),
    log: key,
    verify: webCryptoVerify,
    onEntry: ({ bytes }) => void types.push(parseEntry(bytes).act.type),
  });
  expect(audit).toMatchObject({ ok: true, entries: 51 });
  expect(types.filter((type) => type === "hub-registered")).toHaveLength(1);
  expect(errors).toEqual([]);
});
