import { ACT_CLASSES, ACT_TYPES, type ActType } from "./acts.ts";
import { predicateType } from "./statement.ts";

/** What an act says, about what, and what it must come after; docs/acts/README.md is made of it. */
interface ActPage {
  readonly says: string;
  /** whose name and digest the subject has */
  readonly subject: string;
  readonly prev: string;
}

const PARTY = "the party; its CA key";
const DEVICE = "the device; its key";

/** One for every type: a new one can't be left out. */
const PAGES: Readonly<Record<ActType, ActPage>> = {
  keyset: {
    says: "A child's public keys by role, each with its proof of possession. Its first act.",
    subject: PARTY,
    prev: "nothing",
  },
  ceremony: {
    says: "The root was made, as the reviewed document says; its party's keyset and the root's CRL. Its first act.",
    subject: PARTY,
    prev: "nothing",
  },
  delegation: {
    says: "The grant: what a child may sign, for how many devices, when, and how deep it may delegate on; its CA certificate.",
    subject: "the child; its CA key",
    prev: "the party's ceremony or acceptance; the child's keyset",
  },
  acceptance: {
    says: "The child takes a grant, whose chain it has verified. Only now does it take effect.",
    subject: PARTY,
    prev: "the own keyset; the grant",
  },
  "lot-opened": {
    says: "A production run under these terms. Builder and issuer each open it, on equal terms.",
    subject: "the lot; its terms",
    prev: "nothing; of the issuer the builder's release",
  },
  built: {
    says: "A device was made in this slot; its key and the digest of its request. A station signed the batch.",
    subject: DEVICE,
    prev: "the lot's opening",
  },
  "handoff-released": {
    says: "The giver lets the listed devices go; each item of the list names its device's last act.",
    subject: "the handoff; the root of its list",
    prev: "the lot's opening",
  },
  "handoff-received": {
    says: "The taker has the listed devices, but for those it says didn't come.",
    subject: "the handoff; the root of its list",
    prev: "the giver's release, in its ledger; the own opening of the lot",
  },
  intent: {
    says: "What the CA is about to sign for one batch: the root over the digests of the exact bytes. Durable before the HSM is asked.",
    subject: "the lot; the root over the digests",
    prev: "the lot's opening",
  },
  attested: {
    says: "A TPM of one of the lot's vendors certified that the device's key was made in it and can't leave it; the evidence lies beside the ledger.",
    subject: DEVICE,
    prev: "the device's last act; the receipt of a handoff with the device's place in its list",
  },
  certified: {
    says: "A device's certificate, the intent it was among, and the batch that asked for it.",
    subject: DEVICE,
    prev: "the device's last act; the receipt of a handoff with the device's place in its list",
  },
  injected: {
    says: "The chain is in a firmware image, read back by another reader.",
    subject: DEVICE,
    prev: "the device's last act",
  },
  installed: {
    says: "A technician installed the device; place and time as salted commitments.",
    subject: DEVICE,
    prev: "the device's last act",
  },
  revoked: {
    says: "The party takes back, holds, or no longer holds a certificate that it issued. What its CRL says follows from these.",
    subject: "the device or child; its key",
    prev: "the act that holds the certificate, or the one before about its revocation",
  },
  rotated: {
    says: "The party's CA has a new key, shown by requests of both keys: intents under the old one lie before this size.",
    subject: "the party; its new CA key",
    prev: "the acceptance of the grant in force; the parent's grant that names the new key",
  },
  "hub-registered": { says: "A CA is registered with a hub that holds its code.", subject: PARTY, prev: "nothing" },
  alarm: {
    says: "A CA key of the party signed a certificate that its ledger doesn't hold.",
    subject: PARTY,
    prev: "nothing",
  },
  recovered: {
    says: "The party's database was restored from a backup and rebuilt from what had been published.",
    subject: PARTY,
    prev: "nothing",
  },
};

/** The page over all act types, Markdown. */
export function actsPage(): string {
  const rows = ACT_TYPES.map((type) => {
    const { says, subject, prev } = PAGES[type];
    const kind = ACT_CLASSES[type].class === "signed" ? "signed act" : "line record";
    return `| [${type}](${type}.json) | ${kind} | ${says} | ${subject} | ${prev} |`;
  });
  return `# Acts

Every entry of a ledger is an act: an [in-toto Statement v1](https://github.com/in-toto/attestation) whose predicate type
is \`${predicateType("built").replace("built", "<type>")}\`, in RFC 8785 canonical JSON. The bytes as first written are the
record: they are stored once and never serialised again. A **signed act** is logged as the exact bytes of its DSSE envelope,
signed by the party's act key; a **line record** as the Statement itself, signed through the ledger's checkpoint.

All have the same predicate: \`origin\` (the ledger's), \`party\`, \`retryKey\` (SHA-256 over the canonical JSON of origin,
workflow and step: a retry is the same act), \`time\` (what the party's clock claims; cosignatures bound it), \`grant\` (the act
under which the party acts; the root's party has none), \`prev\` (acts that must have happened before, wherever they lie:
origin and leaf hash, and where that act covers a list, the place in it), \`blobs\` (digests of what lies beside the ledger) and
the type's own \`fields\`. A field that isn't known is refused, and so is a type that isn't.

The sequencer lets an act into the ledger only with its signature, under a grant that the party has accepted, and after every
act of its own ledger that it names. What lies in a peer's ledger may be out of reach then; an audit checks it.

| type | class | says | subject: name; digest | \`prev\` |
| --- | --- | --- | --- | --- |
${rows.join("\n")}

Written from \`lib/records\` by \`npm run docs\`.
`;
}
