import { OID, OID_HUB_VERIFICATION } from "./oids.ts";
import type { Profile } from "./profile-schema.ts";
import { PROFILES, profileDigest } from "./profiles.ts";

const PURPOSES: Record<string, string> = {
  [OID.clientAuth]: "clientAuth",
  [OID.serverAuth]: "serverAuth",
  [OID.ocspSigning]: "OCSPSigning",
  [OID_HUB_VERIFICATION]: `hub verification (${OID_HUB_VERIFICATION})`,
};

const INTRODUCTION = `# Certificate profiles

Everything about a certificate that its requester doesn't decide. From a CSR we take the public key and the name asked
for, nothing else. The data is in \`lib/pki/profiles/\`; grants and lots pin a profile by its digest, the SHA-256 of its
canonical JSON. This page is written from the data by \`npm run docs\`.

Common to all: X.509 version 3; a random serial number of 16 octets; SHA-256 with P-256 and RSA, SHA-384 with P-384 CA
keys, and Ed25519; names in UTF8String (C and serialNumber in PrintableString); subject key identifiers by RFC 7093
method 1. Extensions stand in the order given here. basicConstraints, keyUsage and nameConstraints are critical, the
rest are not. A certificate's validity lies within its issuer's; less than the default, and more up to the maximum, can
be asked for. CSRs may be signed with SHA-256, SHA-384 or SHA-512 on either curve or with RSA, or with Ed25519. RSA keys
have 2048, 3072 or 4096 bits, the sizes that tokens and secure elements make, and an odd exponent of 65537 or more.

Every profile's certificates are read by pkilint in the tests and by zlint in \`npm run test:peers\`: nothing above INFO,
and nothing at all against RFC 5280. The exceptions, each with its reason, are in \`lib/pki/profiles-lint.test.ts\` and
\`test/peers/lint/zlint.test.ts\`.
`;

/** docs/profiles.md, before prettier. */
export function profilesPage(): string {
  return `${[INTRODUCTION, ...Object.values(PROFILES).map(section)].join("\n")}`;
}

function section(profile: Profile): string {
  const rows: [string, string][] = [
    ["Issuer", profile.selfSigned ? "itself" : "a CA above it"],
    ["Subject", subject(profile)],
    ["Keys", profile.keyAlgorithms.join(", ")],
    ["Validity", validity(profile)],
    ["basicConstraints", basicConstraints(profile)],
    ["keyUsage", profile.keyUsage.join(", ")],
    ["extKeyUsage", profile.extKeyUsage.map((oid) => PURPOSES[oid] ?? oid).join(", ") || "none"],
    ["subjectKeyIdentifier, authorityKeyIdentifier", "required"],
    ["subjectAltName", alternativeNames(profile)],
    ["cRLDistributionPoints", present(profile.crlDistributionPoint, "one http URL")],
    ["nameConstraints", present(profile.nameConstraints, "permitted directoryName subtrees")],
  ];
  if (profile.ocspNoCheck === true) rows.push(["ocsp-nocheck", "required"]);
  const table = rows.map(([what, value]) => `| ${what} | ${value} |`).join("\n");
  return `## ${profile.name}\n\n${profile.purpose}\n\n| | |\n| --- | --- |\n${table}\n| Digest | \`${profileDigest(profile.name)}\` |\n`;
}

function subject({ subject: rules }: Profile): string {
  const attributes: [string, string, string][] = [
    ["C", rules.country, ""],
    ["O", rules.organization, ""],
    ["OU", rules.organizationalUnit, rules.role === undefined ? "" : ` = ${rules.role}`],
    ["CN", rules.commonName, rules.commonNameForm === "device-id" ? " = the device ID" : ""],
    ["serialNumber", rules.serialNumber, ""],
  ];
  return attributes
    .filter(([, presence]) => presence !== "forbidden")
    .map(([name, presence, form]) => `${name}${form}${presence === "optional" ? " (optional)" : ""}`)
    .join(", ");
}

function validity({ validity: { defaultDays, maxDays, noExpiry } }: Profile): string {
  const endless = noExpiry ? "; 99991231235959Z under an issuer that runs so long" : "";
  return `${defaultDays} days by default, ${maxDays} at most${endless}`;
}

function basicConstraints({ basicConstraints: rules }: Profile): string {
  if (!rules.ca) return "no CA";
  const range = rules.maxPathLen === 0 ? "0" : `0 to ${rules.maxPathLen}`;
  return `CA, ${present(rules.pathLen, `path length ${range}, below its issuer's`)}`;
}

function alternativeNames({ subjectAltName: { presence, kinds } }: Profile): string {
  return present(
    presence,
    kinds.map((kind) => (kind === "hardware-module" ? "hardware module name" : kind)).join(", "),
  );
}

function present(presence: string, what: string): string {
  if (presence === "forbidden") return "none";
  return presence === "required" ? what : `${what} (optional)`;
}
