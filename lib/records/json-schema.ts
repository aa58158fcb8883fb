import { z } from "zod";
import { ACT_CLASSES, ACT_FIELDS, ACT_TYPES, type ActType } from "./acts.ts";
import { attestationRecord } from "./attestation.ts";
import { dsseEnvelope } from "./dsse.ts";
import { manifest } from "./manifest.ts";
import { BODIES, invitation, message } from "./message.ts";
import { openings } from "./opening.ts";
import { passport } from "./passport.ts";
import { policy } from "./policy.ts";
import { receipt } from "./receipt.ts";
import { splitView } from "./split-view.ts";
import { statementOf } from "./statement.ts";

/** JSON Schemas (draft 2020-12) of everything that is evidence or crosses between parties, by file name. */
export function recordSchemas(): Map<string, unknown> {
  const schemas = new Map<string, unknown>();
  for (const type of ACT_TYPES) schemas.set(`acts/${type}.json`, actSchema(type));
  schemas.set("records/dsse.json", schemaOf(dsseEnvelope, "DSSE envelope"));
  schemas.set("records/manifest.json", schemaOf(manifest, "Payload of a signed batch manifest"));
  schemas.set("records/message.json", schemaOf(message, "Payload of an envelope between parties"));
  for (const [type, body] of Object.entries(BODIES)) {
    schemas.set(`records/message-${type}.json`, schemaOf(body, `Body of a ${type} message`));
  }
  schemas.set("records/invitation.json", schemaOf(invitation, "Invitation to become a child"));
  schemas.set("records/attestation.json", schemaOf(attestationRecord, "Evidence of a device's attestation"));
  schemas.set("records/receipt.json", schemaOf(receipt, "Injection receipt"));
  schemas.set("records/passport.json", schemaOf(passport, "Device passport"));
  schemas.set("records/openings.json", schemaOf(openings, "Salted values of a device, as its holder shows them"));
  schemas.set("records/policy.json", schemaOf(policy, "What verify and audit pin"));
  schemas.set("records/split-view.json", schemaOf(splitView, "Two checkpoints that no single history has"));
  return schemas;
}

function actSchema(type: ActType): unknown {
  const kind =
    ACT_CLASSES[type].class === "signed"
      ? "signed act: the payload of a DSSE envelope, signed by the party's act key"
      : "line record: the ledger entry itself, signed through the ledger's checkpoint";
  return schemaOf(statementOf(type, ACT_FIELDS[type]), `${type} (${kind})`);
}

function schemaOf(schema: z.ZodType, title: string): unknown {
  return { title, ...z.toJSONSchema(schema, { unrepresentable: "any", reused: "ref" }) };
}
